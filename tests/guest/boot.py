# SPDX-License-Identifier: Apache-2.0
"""What the guest boots: Debian's kernel for clouds, and a small initramfs made of its modules.

The kernel is a package that is unpacked below `build`, never installed. An unpacked kernel of
another distribution (`boot/vmlinuz-*`, `lib/modules`) may be put there by hand.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
#: Where the unpacked kernel is kept.
KERNEL = _REPOSITORY / "build/guest/kernel"
_PACKAGE = "linux-image-cloud-amd64"
_BUSYBOX = Path("/bin/busybox")
#: Where programs are found in the guest.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What it takes to reach the root file system, the port and the network. All others are found by
#: `modprobe` in the running guest.
_MODULES = ("virtio_pci", "virtiofs", "virtio_console", "virtio_net")
_UNPACKED: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}

_HERE = shlex.quote(f"/root{_REPOSITORY}")
#: The root is the machine's files; /proc, /sys, /dev, /run and /tmp are the guest's own, with this
#: repository in them if it is there.
_INIT = f"""#!/bin/busybox sh
export PATH={PATH}
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t virtiofs -o ro host /root || poweroff -f
for directory in proc sys dev; do mount --move /$directory /root/$directory; done
mkdir /kept && mount --bind {_HERE} /kept
for directory in tmp run var/tmp; do mount -t tmpfs -o mode=1777 tmpfs /root/$directory; done
if [ -e {_HERE} ]; then umount /kept; else mkdir -p {_HERE} && mount --move /kept {_HERE}; fi
mount -t cgroup2 -o nsdelegate cgroup2 /root/sys/fs/cgroup
cd /root/sys/fs/cgroup
for one in $(cat cgroup.controllers); do echo +$one >cgroup.subtree_control; done
ip link set lo up
ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up
. /start
"""


class Missing(Exception):
    """Something of this machine is needed for a guest; says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: its image, and the directory with `lib/modules/VERSION`."""

    image: Path
    root: Path

    @property
    def version(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")


def require(*programs: str) -> None:
    """Raises Missing when one of them is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Missing(f"not installed: {', '.join(missing)}; run deploy/machine/install-packages")


def find_kernel() -> Kernel:
    """The unpacked kernel; the package is downloaded the first time. Raises Missing."""
    require("busybox", "depmod", "modprobe")
    if not KERNEL.exists():
        _download()
    images = sorted((KERNEL / "boot").glob("vmlinuz-*"))
    if not images:
        raise Missing(f"no boot/vmlinuz-* in {KERNEL}: remove that directory, and try again")
    kernel = Kernel(images[-1], KERNEL)
    if not (KERNEL / "lib/modules" / kernel.version / "modules.dep").exists():
        subprocess.run(["depmod", "-b", KERNEL, kernel.version], check=True, timeout=60)
    return kernel


def _download() -> None:
    KERNEL.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KERNEL.parent) as directory:
        # As the user that apt uses for downloads may not enter here, it warns; its output is kept
        # for the case that it fails.
        fetched = subprocess.run(
            ["apt-get", "download", "-q", _image_package()],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        packages = list(Path(directory).glob("*.deb"))
        if not packages:
            raise Missing(f"apt-get could not download the kernel: {fetched.stderr.strip()}")
        unpacked = Path(directory) / "kernel"
        subprocess.run(["dpkg", "-x", packages[0], unpacked], check=True, timeout=120)
        if (unpacked / "usr/lib/modules").exists() and not (unpacked / "lib").exists():
            (unpacked / "lib").symlink_to("usr/lib")
        try:
            unpacked.rename(KERNEL)
        except OSError:  # another run was quicker
            if not KERNEL.exists():
                raise


def _image_package() -> str:
    """The newest kernel that the package of packages stands for."""
    if shutil.which("apt-cache") is None:
        raise Missing(f"this is not Debian: unpack a kernel with its modules into {KERNEL}")
    said = subprocess.run(
        ["apt-cache", "depends", "--important", _PACKAGE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
    names = [line.split()[-1] for line in said.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise Missing(
            f"no package {_PACKAGE!r} here: `apt-get update` on Debian; on Ubuntu unpack "
            f"linux-image-VERSION-generic and linux-modules-VERSION-generic into {KERNEL}"
        )
    return names[0]


def make_initramfs(kernel: Kernel, to: Path, start: str) -> None:
    """Write an initramfs that ends with the shell commands `start`, the root being at /root."""
    modules = list(_needed_modules(kernel))
    order = "".join(f"{_plain_name(path)}\n" for path in modules)
    with gzip.open(to, "wb", compresslevel=1) as archive:
        number = 1
        for directory in ("bin", "dev", "modules", "proc", "root", "sys"):
            archive.write(_entry(number, directory, 0o040755, b""))
            number += 1
        files = {
            "init": _INIT.encode(),
            "start": start.encode(),
            "bin/busybox": _BUSYBOX.read_bytes(),
            "modules/order": order.encode(),
        }
        files |= {f"modules/{_plain_name(path)}": _unpacked(path) for path in modules}
        for name, content in files.items():
            archive.write(_entry(number, name, 0o100755, content))
            number += 1
        archive.write(_entry(0, "TRAILER!!!", 0, b""))


def _needed_modules(kernel: Kernel) -> Iterator[Path]:
    """Each module once, after those that it needs."""
    seen: set[str] = set()
    for name in _MODULES:
        said = subprocess.run(
            ["modprobe", "-S", kernel.version, "-d", kernel.root, "--show-depends", name],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for line in said.splitlines():
            what, _, path = line.partition(" ")
            if what == "insmod" and path.split()[0] not in seen:
                seen.add(path.split()[0])
                yield Path(path.split()[0])


def _plain_name(module: Path) -> str:
    """Without the suffix of a compressed one: in the initramfs it is not, and insmod goes by it."""
    return module.name.partition(".ko")[0] + ".ko"


def _unpacked(module: Path) -> bytes:
    unpack = _UNPACKED.get(module.suffix)
    if unpack is None:
        raise Missing(f"the modules in {KERNEL} are {module.suffix}: unpack them there")
    return unpack(module.read_bytes())


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    """One file of a cpio archive in the kernel's format "newc"
    (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    path = os.fsencode(name) + b"\0"
    links = 2 if mode & 0o040000 and not mode & 0o100000 else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
