# SPDX-License-Identifier: Apache-2.0
"""Real servers of remote file systems, of Debian's packages, on loopback. Each serves a directory
with a file `who`, can be killed and started again, and says how the mounter reaches it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

LIMIT_S = 20.0
_CLEAN = {"PATH": os.environ["PATH"], "LANG": "C"}


def free_port() -> int:
    """Nobody listens there at this moment. Below those that the kernel gives to whoever connects;
    by a chance that other workers, whose seed is the same, do not share.
    """
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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

    def signal(self, number: signal.Signals) -> None:
        """To it, and to those that serve one connection (sshd gives each a session of its own)."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (*server.children(recursive=True), server):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
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
    """XRootD with two keys of shared secrets: one makes everybody the user nobody, who may read;
    the other makes everybody who he is on this machine, and `OWNER` may write to his directory.
    """

    OWNER = "games"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        (directory / "exported/data").mkdir(parents=True)
        shutil.move(self.data / "who", directory / "exported/data/who")
        self.data = directory / "exported/data"
        for name in ("admin", "run"):
            (directory / name).mkdir()
        (self.data / self.OWNER).mkdir()
        self.keytab = self._key("nobody", "nogroup")
        self.keytab_of_anybody = self._key("anybody", "usrgroup")
        (directory / "rights").write_text(f"u * /data rl\nu {self.OWNER} /data/{self.OWNER} a\n")
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
        directory.chmod(0o755)

    def _key(self, user: str, group: str) -> Path:
        """A new one; the client's file has it alone. Made in one file: else they get the same
        number, and the server takes one for the other.
        """
        keys = self.directory / "server.key"
        before = keys.read_text().splitlines() if keys.exists() else []
        make = ["xrdsssadmin", "-k", f"of-{user}", "-u", user, "-g", group, "add", str(keys)]
        subprocess.run(make, input=b"y\n", check=True, timeout=LIMIT_S, capture_output=True)
        (made,) = [line for line in keys.read_text().splitlines() if line not in before]
        # Beside the server's directory, which it keeps to itself.
        path = self.directory.with_name(f"{user}.key")
        path.write_text(f"{made}\n")
        shutil.chown(path, "daemon")
        path.chmod(0o400)
        return path

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


class S3Server(Server):
    """Moto's, which has a virtual environment of its own. What was written is gone with it."""

    bucket = "bucket"
    keys = ("AKIATESTTESTTESTTEST", "a-secret-of-the-tests")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.python = Path(sys.prefix) / "s3/bin/python"
        assert self.python.exists(), f"no {self.python}: `make test` makes it"
        self._write("server.keys", ":".join(self.keys))
        self.write_keys(self.keys)

    def write_keys(self, keys: tuple[str, str]) -> None:
        """What the clients are given."""
        self._write("passwd", ":".join(keys))
        self._write(
            "rclone.conf",
            f"[there]\ntype = s3\nprovider = Other\nendpoint = {self.url}\nregion = us-east-1\n"
            f"force_path_style = true\naccess_key_id = {keys[0]}\nsecret_access_key = {keys[1]}",
        )

    def _write(self, name: str, text: str) -> None:
        """As a file of credentials is replaced: whole, and for root alone."""
        path = self.directory / name
        aside = path.with_suffix(".new")
        aside.write_text(f"{text}\n")
        aside.chmod(0o400)
        aside.replace(path)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        program = str(Path(__file__).with_name("s3_server.py"))
        words = [str(self.port), self.bucket, str(self.data), str(self.directory / "server.keys")]
        return [str(self.python), program, *words]

    @property
    def by_s3fs(self) -> dict[str, Any]:
        return {
            "driver": "s3fs",
            "source": self.bucket,
            "credentials": {"passwd_file": str(self.directory / "passwd")},
            "options": {"url": self.url, "use_path_request_style": True},
        }

    @property
    def by_rclone(self) -> dict[str, Any]:
        return {
            "driver": "rclone",
            "source": f"there:{self.bucket}",
            "credentials": {"config": str(self.directory / "rclone.conf")},
            "options": {"dir-cache-time": "1s", "low-level-retries": 1, "retries": 1},
        }

    @property
    def mount(self) -> dict[str, Any]:
        return self.by_s3fs


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
