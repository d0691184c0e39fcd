# SPDX-License-Identifier: Apache-2.0
"""Real servers of remote file systems, of Debian's packages, on loopback. Each serves a directory
with a file `who`, can be killed and started again, and says how the mounter reaches it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

LIMIT_S = 20.0
_CLEAN = {"PATH": os.environ["PATH"], "LANG": "C"}


def free_port() -> int:
    """Nobody listens there at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process on a port, and its entry in the mounter's configuration."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.data = directory / "data"
        self.data.mkdir()
        (self.data / "who").write_text("the server\n")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def mount(self) -> dict[str, Any]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_CLEAN,
                start_new_session=True,
            )
        deadline = time.monotonic() + LIMIT_S
        while not self._listens():
            log_text = (self.directory / "server.log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # with those that serve one connection
            self._process.wait(LIMIT_S)
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class SshServer(Server):
    """OpenSSH, for whoever runs the tests, by key."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for name in ("host_key", "user_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(make, check=True, timeout=LIMIT_S)
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        key = (directory / "host_key.pub").read_text()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {directory}/host_key\n"
            f"PidFile none\nAuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\n"
            "PasswordAuthentication no\nUsePAM no\nPermitRootLogin yes\n"
            "Subsystem sftp internal-sftp\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # without it sshd does not start

    def command(self) -> list[str]:
        sshd = shutil.which("sshd", path=f"{_CLEAN['PATH']}:/usr/sbin")
        assert sshd is not None
        return [sshd, "-D", "-e", "-f", str(self.directory / "sshd_config")]

    @property
    def mount(self) -> dict[str, Any]:
        return {
            "driver": "sshfs",
            "source": f"root@127.0.0.1:{self.data}",
            "credentials": {
                "identity_file": str(self.directory / "user_key"),
                "known_hosts": str(self.directory / "known_hosts"),
            },
            "options": {"port": self.port, "ServerAliveInterval": 1},
        }


class XrootdServer(Server):
    """XRootD with a key of shared secrets that makes everybody one user."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "exported/data").mkdir(parents=True)
        shutil.move(self.data / "who", directory / "exported/data/who")
        self.data = directory / "exported/data"
        for name in ("admin", "run"):
            (directory / name).mkdir()
        # Beside it: the server keeps its directory to itself.
        self.keytab = directory.with_name("client.key")
        make = ["xrdsssadmin", "-k", "test", "-u", "nobody", "-g", "nogroup", "add"]
        subprocess.run(
            [*make, str(directory / "server.key")],
            input=b"y\n",
            check=True,
            timeout=LIMIT_S,
            capture_output=True,
        )
        shutil.copy(directory / "server.key", self.keytab)
        (directory / "rights").write_text("u * /data a\n")
        (directory / "server.cfg").write_text(
            f"all.export /data\noss.localroot {directory}/exported\n"
            f"all.adminpath {directory}/admin\nall.pidpath {directory}/run\n"
            f"xrd.port {self.port}\nxrd.allow host localhost\nxrd.network nodnr norpipa\n"
            "xrootd.seclib libXrdSec.so\nofs.authorize\n"
            f"sec.protocol sss -s {directory}/server.key\nsec.protbind * only sss\n"
            f"acc.authdb {directory}/rights\n"
        )
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, "xrootd", "xrootd")
        shutil.chown(self.keytab, "daemon")
        self.keytab.chmod(0o400)
        directory.chmod(0o755)

    def command(self) -> list[str]:
        # Its own name has to be one that can be looked up, which not every machine's is.
        named = ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
        server = ["xrootd", "-R", "xrootd", "-n", "test", "-c", str(self.directory / "server.cfg")]
        return [*named, *server]

    @property
    def mount(self) -> dict[str, Any]:
        return {
            "driver": "xrootd",
            "source": f"root://localhost:{self.port}//data",
            "credentials": {"sss_keytab": str(self.keytab)},
            "xrdcl": {
                "ConnectionWindow": 2,
                "StreamErrorWindow": 2,
                "RequestTimeout": 4,
                "TimeoutResolution": 1,
            },
        }


class WebdavServer(Server):
    """rclone's own server, for rclone."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.configuration = directory / "rclone.conf"
        self.configuration.write_text(
            f"[there]\ntype = webdav\nurl = http://127.0.0.1:{self.port}\nvendor = other\n"
        )
        self.configuration.chmod(0o600)

    def command(self) -> list[str]:
        return ["rclone", "serve", "webdav", str(self.data), "--addr", f"127.0.0.1:{self.port}"]

    @property
    def mount(self) -> dict[str, Any]:
        return {
            "driver": "rclone",
            "source": "there:",
            "credentials": {"config": str(self.configuration)},
            "options": {"dir-cache-time": "1s", "low-level-retries": 1, "retries": 1},
        }
