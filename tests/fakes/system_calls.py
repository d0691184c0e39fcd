# SPDX-License-Identifier: Apache-2.0
"""A program that makes the calls which are answered (`system_calls.c`), compiled for containers."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("system_calls.c")
#: Where a container has it: with glibc, and with musl and nothing shared.
GLIBC, MUSL = "/calls/glibc", "/calls/musl"


def compiled(directory: Path) -> Mapping[str, Path]:
    """What a container has to be given: where, and what of the host."""
    directory.mkdir()
    options = ["-O1", "-pthread", "-Wall", "-Wextra", "-Werror", str(_SOURCE)]
    glibc = ["gcc", "-fopenmp", "-DWITH_KERNEL_HEADERS", *options]
    for compiler, place in ((glibc, GLIBC), (["musl-gcc", "-static", *options], MUSL)):
        output = str(directory / Path(place).name)
        subprocess.run([*compiler, "-o", output], check=True, timeout=60)
    return {str(Path(GLIBC).parent): directory}
