# SPDX-License-Identifier: Apache-2.0
"""The images as `make image` makes them, built once below `build/image`.

By buildah (chroot isolation) on a base that debootstrap makes, with this machine's own package
sources. What was built before is taken up again: only what changed is built anew. Nothing stays
mounted: all of buildah's mounts are in a mount namespace that ends with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2]
WORK = SOURCE / "build/image"
STORAGE = WORK / "test"
NAME = "localhost/nodeshare-test"
VERSION = "0.0.0"
#: In what this machine tells the build, and nowhere else.
MARKER = "nowhere.nodeshare-test.invalid"
_LIMIT_S = 900.0  # on a machine that is busy with everything else
#: Where the files of an image lie: each layer's, the topmost first.
_LAYERS = """
set -eu
container=$(buildah from --pull-never "$1")
trap 'buildah rm "$container" >/dev/null' EXIT
merged=$(buildah mount "$container")
cd "${merged%/*/*}"
awk -v at="$merged" '$2 == at { print $4 }' /proc/mounts | tr , '\n' | sed -n 's/^lowerdir=//p' \
  | tr : '\n' | xargs realpath
"""
#: More layers than this come from builds of long ago.
_MOST_LAYERS = 80


@dataclass(frozen=True, slots=True)
class Image:
    """`files`: of each layer, the topmost first; to be left as they are. `configuration`: that of
    the OCI image specification. `layers`: digests, the base's first."""

    files: tuple[Path, ...]
    configuration: Mapping[str, Any]
    layers: tuple[str, ...]

    @contextmanager
    def mounted(self, at: Path) -> Iterator[Path]:
        """All its files at a place, where nothing can be written."""
        layers = f"lowerdir={':'.join(map(str, self.files))}"
        subprocess.run(["mount", "-t", "overlay", "image", "-o", layers, at], check=True)
        try:
            yield at
        finally:
            subprocess.run(["umount", "--lazy", at], check=True)


@cache
def built(target: str = "nodeshare", *, base: str = "debootstrap") -> Image:
    """`target`: nodeshare or mounts (of deploy/docker/Dockerfile). Minutes, then seconds."""
    tag = VERSION if target == "nodeshare" else f"{VERSION}-{target}"
    with _alone():
        if len(list(STORAGE.glob("images/overlay/*/diff"))) > _MOST_LAYERS:
            shutil.rmtree(STORAGE)
        build(target, base=base)
        return found(f"{NAME}:{tag}")


def build(*arguments: str, base: str = "debootstrap", **environment: str) -> None:
    """deploy/docker/build-image, in the storage of the tests."""
    done = subprocess.run(
        [SOURCE / "deploy/docker/build-image", *arguments],
        env={
            **os.environ,
            "ENGINE": "buildah",
            "BASE": base,
            "IMAGE": NAME,
            "VERSION": VERSION,
            "WORK": str(WORK),
            "STORAGE": str(STORAGE),
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), MARKER])),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def found(name: str) -> Image:
    """An image of that storage."""
    document = json.loads(buildah("inspect", "--type", "image", name))["OCIv1"]
    files = _run("bash", "-c", _LAYERS, "layers", name).split()
    return Image(tuple(map(Path, files)), document["config"], tuple(document["rootfs"]["diff_ids"]))


def buildah(*arguments: str) -> str:
    return _run("buildah", *arguments)


def _run(*argv: str) -> str:
    storage = WORK / "storage.conf"
    storage.write_text(
        "[storage]\n"
        f'driver = "overlay"\ngraphroot = "{STORAGE}/images"\nrunroot = "{STORAGE}/run"\n'
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", *argv],
        env={**os.environ, "CONTAINERS_STORAGE_CONF": str(storage)},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def _alone() -> Iterator[None]:
    """Tests in other processes want the same images."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    # Before the tests, which take up what is there.
    with _alone():
        build()
