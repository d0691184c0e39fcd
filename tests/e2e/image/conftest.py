# SPDX-License-Identifier: Apache-2.0
"""The images, and a node whose agents run from them."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.image import Image, built
from tests.fakes.image_node import ImageNode


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first of them builds the images: minutes, on a machine that is busy with other tests."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session", autouse=True)
def what_buildah_needs() -> None:
    """Mount namespaces and overlay, for root: not every kernel or container lets it have them."""
    probe = ["mount", "-t", "overlay", "probe", "-o", "lowerdir=/usr:/etc", "/mnt"]
    alone = ["unshare", "--mount", "--propagation", "slave", *probe]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        pytest.skip(f"no overlay in a mount namespace of one's own: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def small() -> Image:
    """For GPUs and views."""
    return built("nodeshare")


@pytest.fixture(scope="session")
def large() -> Image:
    """For mounts."""
    return built("mounts")


@pytest.fixture
def node(small: Image, large: Image) -> Iterator[ImageNode]:
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="ns-i"))
    made = ImageNode(directory, f"nodeshare-test-{secrets.token_hex(4)}")
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)
