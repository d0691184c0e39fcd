# SPDX-License-Identifier: Apache-2.0
"""How the driver starts the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agents.hostfs import HostFs
from fuse_mounter.drivers.base import Launch
from fuse_mounter.drivers.passthrough import Passthrough, PassthroughMount

ENTRY = {"name": "s", "driver": "passthrough", "path": "s", "source": "/srv/s"}


def launch(**more: Any) -> Launch:
    mount = PassthroughMount.model_validate({**ENTRY, **more})
    return Passthrough().launch(mount, Path("/staging/s"), HostFs())


def test_as_it_is() -> None:
    argv = launch().argv
    assert argv[-6:] == ("--name", "nodeshare:s", "--device", "/dev/fuse", "--cache-timeout", "1.0")
    assert {"--writeback", "--read-only"}.isdisjoint(argv)


def test_who_may_still_hold_what_is_to_be_written_has_time_to_end() -> None:
    later = launch(options={"writeback": True})
    assert "--writeback" in later.argv
    assert later.end_limit_s > launch().end_limit_s


def test_read_only_and_a_longer_cache() -> None:
    argv = launch(read_only=True, options={"cache_timeout": "1m"}).argv
    assert "--read-only" in argv
    assert argv[argv.index("--cache-timeout") + 1] == "60.0"


@pytest.mark.parametrize(
    "options", [{"writeback": "sometimes"}, {"writeback": 1}, {"cache_timeout": 5}, {"cache": True}]
)
def test_what_is_not_understood_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as raised:
        launch(options=options)
    assert next(iter(options)) in str(raised.value)
