# SPDX-License-Identifier: Apache-2.0
"""What is in the images, and what is not."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.image import MARKER, NAME, VERSION, Image, build, buildah, found
from tests.fakes.image_node import ImageNode
from tests.fakes.pod_agent import PodAgent

#: Where everybody gets Debian's packages: files of such packages name it.
_PUBLIC = ".debian.org"
#: unchecked hash, see importlib's PEP 552.
_UNCHECKED = (1).to_bytes(4, "little")


@pytest.fixture
def files(large: Image, tmp_path: Path) -> Iterator[Path]:
    with large.mounted(tmp_path) as root:
        yield root


def addresses() -> set[str]:
    """By what this machine reaches packages and names: proxies, mirrors, indexes, name servers."""
    configured = [
        *(Path("/etc/apt").rglob("*.sources")),
        *(Path("/etc/apt").rglob("*.list")),
        *(Path("/etc/apt/apt.conf.d").iterdir()),
        *(Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"),
    ]
    texts = [path.read_text() for path in configured if path.is_file()]
    texts += [
        value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower().endswith("_proxy")
    ]
    text = re.sub(r"(?m)^\s*(#|//).*", "", "\n".join(texts))
    known = set(re.findall(r"https?://(?:[^/\s@]*@)?([^/\s\"']+)", text))
    known |= set(re.findall(r"file://(/\S+)", text))
    servers = re.findall(r"nameserver (\S+)", Path("/etc/resolv.conf").read_text())
    private = {one for one in known if not one.endswith(_PUBLIC)}
    return {MARKER, *servers, *private}


def contents(root: Path) -> Iterator[tuple[Path, bytes]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def test_nothing_of_this_machine_is_left_in_it(files: Path) -> None:
    private = [one.encode() for one in addresses()]
    assert MARKER.encode() in private
    told = [(path, one) for path, content in contents(files) for one in private if one in content]
    assert not told
    history = buildah("inspect", "--type", "image", f"{NAME}:{VERSION}-mounts")
    assert MARKER not in history
    assert socket.gethostname() not in _text(files / "etc/hostname")
    assert not _text(files / "etc/resolv.conf")
    for place in ("var/log", "var/lib/apt/lists", "root", "tmp", "run/machine"):
        left = [path for path in (files / place).rglob("*") if path.is_file()]
        assert [path for path in left if path.name not in (".bashrc", ".profile")] == [], place
    assert not list((files / "var/cache/apt").rglob("*.deb"))


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_bytecode_is_there_and_never_compared(files: Path) -> None:
    """Else each start would compile, as the times of files in an image are not those of sources."""
    compiled = [path for path, _ in contents(files) if path.suffix == ".pyc"]
    assert len(compiled) > 1000
    assert [path for path in compiled if path.read_bytes()[4:8] != _UNCHECKED] == []
    (packages,) = (files / "opt/nodeshare/lib").glob("python3.*/site-packages")
    for package in ("agents", "gpu_plugin", "fuse_mounter", "lxcfs_helper"):
        for source in (packages / package).rglob("*.py"):
            assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source


def test_both_share_what_takes_room(small: Image, large: Image) -> None:
    base, python, dependencies, _ = small.layers
    assert large.layers[:2] == (base, python)
    assert dependencies in large.layers
    for image in (small, large):
        assert image.configuration["User"] == "65532:65532"
        labels = image.configuration["Labels"]
        assert labels["org.opencontainers.image.version"] == VERSION
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_debians_clients_are_where_mounts_are_made(small: Image, large: Image) -> None:
    clients = ("fusermount3", "rclone", "s3fs", "sshfs", "xrootdfs", "../sbin/mount.nfs")

    def has(image: Image, name: str) -> bool:
        return any((layer / "usr/bin" / name).exists() for layer in image.files)

    assert [name for name in clients if not has(large, name)] == []
    assert [name for name in clients if has(small, name)] == []


def test_clients_that_debian_does_not_have_are_added_as_packages(
    large: Image, tmp_path: Path
) -> None:
    programs = {"eos-fusex": "eosxd3", "cvmfs": "cvmfs2", "mount-s3": "mount-s3"}
    (tmp_path / "packages").mkdir()
    for package, program in programs.items():
        _package(tmp_path, package, program)
    build("clients", str(tmp_path / "packages"))
    made = found(f"{NAME}:{VERSION}-clients")
    assert made.layers[: len(large.layers)] == large.layers
    assert made.configuration["User"] == "65532:65532"
    assert made.configuration["Entrypoint"] == ["nodeshare"]
    (tmp_path / "root").mkdir()
    with made.mounted(tmp_path / "root") as root:
        for program in programs.values():
            assert os.access(root / "usr/bin" / program, os.X_OK)
        assert (root / "usr/bin/getfattr").exists()  # what a package depends on comes from Debian
        assert not list((root / "var/lib/apt/lists").iterdir())


def _package(directory: Path, name: str, program: str) -> None:
    """A double: a package with one program, that needs one of Debian's."""
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nDepends: attr\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: a double\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin" / program).write_text("#!/bin/sh\necho double\n")
    (tree / "usr/bin" / program).chmod(0o755)
    target = directory / "packages"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(target)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def alone(node: ImageNode) -> PodAgent:
    """The plugin's pod, but in a pid namespace of its own: the first process is the agent."""
    asked = node.manifest("gpu")
    del asked["spec"]["template"]["spec"]["hostPID"]
    return node.pod("gpu", asked)


def test_as_first_process_it_reaps_what_others_left(node: ImageNode) -> None:
    agent = alone(node)
    agent.start()
    node.until(lambda: node.status("gpu"), "the agent answers")
    assert agent.exec("cat", "/proc/1/comm").stdout.strip() in ("nodeshare", "python3", "python")
    # Its parent ends at once, and does not wait.
    agent.exec("sh", "-c", "(sleep 0.2; exec true) & exit 0")
    listing = "cat /proc/[0-9]*/stat | awk '$3 == \"Z\"'"
    agent.exec("sleep", "1")
    node.until(lambda: not agent.exec("sh", "-c", listing).stdout, "it is reaped")
    nobody_in_particular_runs_commands(agent)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0


def nobody_in_particular_runs_commands(agent: PodAgent) -> None:
    """As the image has it, where nothing else is said."""
    config = "/etc/nodeshare/nodeshare.yaml"
    nobody = ("--user", "65532:65532")
    done = agent.exec("nodeshare", "check", config, options=nobody)
    assert "valid" in done.stdout
    refused = agent.exec("nodeshare", "run", "gpu", "--config", config, options=nobody, check=False)
    assert refused.returncode == 2
    assert "as user 0" in refused.stderr


def test_told_to_end_while_it_is_loaded_it_ends(node: ImageNode) -> None:
    """The kernel would keep the signal from it, as it is the first process of its container."""
    codes = []
    for _ in range(5):  # where it was loaded too quickly for us, it ends with 0
        agent = alone(node)
        agent.start()
        node.until(agent.ends_when_told, "it handles the signal")
        agent.send_signal(signal.SIGTERM)
        codes.append(agent.wait(30))
        if codes[-1] == 143:
            return
    pytest.fail(f"it was never told early enough: {codes}")
