# SPDX-License-Identifier: Apache-2.0
"""The guest level: a virtual machine with a kernel and cgroups of its own. In CI it may not be
skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.guest.boot import Missing
from tests.guest.guest import Guest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first one downloads a kernel, or waits for the guest to boot."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    """One for all tests of the level: leave it as you found it."""
    try:
        if os.geteuid():
            raise Missing("needs root, to share this machine's files")
        guest = Guest()
    except Missing as missing:
        _unavailable(missing)
    try:
        guest.boot()
        yield guest
    except Missing as missing:
        _unavailable(missing)
    finally:
        guest.close()


def _unavailable(missing: Missing) -> NoReturn:
    reason = f"guest level unavailable: {missing}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
