# SPDX-License-Identifier: Apache-2.0
"""XRootD that believes tokens of a provider (ztn and SciTokens, over TLS), without asking it: its
key is put into the server's cache by the library that reads it there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes import certificates
from tests.fakes.openid_provider import OpenIdProvider
from tests.fakes.servers import _CLEAN, LIMIT_S, Server

AUDIENCE = "xrootd"
#: As xrootdfs names it when it is told localhost.
_NAMES = ("[::ffff:127.0.0.1]", "[::127.0.0.1]")
_STORE = """
import ctypes, sys
library, error = ctypes.CDLL("libSciTokens.so.0"), ctypes.c_char_p()
issuer, name, key = (word.encode() for word in sys.argv[1:])
sys.exit(library.scitoken_store_public_ec_key(issuer, name, key, ctypes.byref(error)))
"""


class TokenXrootdServer(Server):
    """Serves `/data` to everybody with a token for `AUDIENCE` that may read there."""

    def __init__(self, directory: Path, provider: OpenIdProvider, files: int) -> None:
        super().__init__(directory)
        exported = directory / "exported"
        exported.mkdir()
        shutil.move(self.data, exported / "data")
        self.data = exported / "data"
        for number in range(files):
            (self.data / f"f{number}").write_text(f"{number}\n")
        for name in ("admin", "run", "cache"):
            (directory / name).mkdir()
        made = certificates.make(directory, *_NAMES)
        # Beside it: the server keeps its directory to itself.
        self.authorities = directory.with_name("authorities")
        self.authorities.mkdir()
        hashed = ["openssl", "x509", "-hash", "-noout", "-in", str(made.authority)]
        done = subprocess.run(hashed, check=True, timeout=LIMIT_S, capture_output=True, text=True)
        shutil.copy(made.authority, self.authorities / f"{done.stdout.strip()}.0")
        (directory / "scitokens.cfg").write_text(
            f"[Global]\naudience = {AUDIENCE}\n\n"
            f"[Issuer test]\nissuer = {provider.issuer}\nbase_path = /data\n"
        )
        (directory / "server.cfg").write_text(
            f"all.export /data\noss.localroot {exported}\n"
            f"all.adminpath {directory}/admin\nall.pidpath {directory}/run\n"
            f"xrd.port {self.port}\nxrd.allow host localhost\nxrd.network nodnr norpipa\n"
            f"xrd.tls {made.certificate} {made.key}\nxrd.tlsca noverify\nxrootd.tls login\n"
            "xrootd.seclib libXrdSec.so\nofs.authorize\n"
            f"ofs.authlib libXrdAccSciTokens.so config={directory}/scitokens.cfg\n"
            "sec.protocol ztn\nsec.protbind * only ztn\n"
        )
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, "xrootd", "xrootd")
        directory.chmod(0o755)
        self._cached = f"XDG_CACHE_HOME={directory}/cache"
        key = provider.key.as_pem(private=False).decode()
        store = [sys.executable, "-c", _STORE, provider.issuer, "k1", key]
        # By root, as the interpreter may be for nobody else; then the cache is given away.
        subprocess.run(["env", self._cached, *store], check=True, timeout=LIMIT_S)
        for path in (directory / "cache").rglob("*"):
            shutil.chown(path, "xrootd", "xrootd")

    def command(self) -> list[str]:
        # Its own name has to be one that can be looked up, which not every machine's is.
        named = ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]
        server = ["xrootd", "-R", "xrootd", "-n", "test", "-c", str(self.directory / "server.cfg")]
        return [*named, "env", self._cached, *server]

    def lets_in(self, token: Path) -> bool:
        """Whether somebody new may list its files with the token in this file."""
        there = {"BEARER_TOKEN_FILE": str(token), "X509_CERT_DIR": str(self.authorities)}
        done = subprocess.run(
            ["xrdfs", f"root://localhost:{self.port}", "stat", "/data/f0"],
            env={**_CLEAN, **there, "XRD_CONNECTIONWINDOW": "2", "XRD_CONNECTIONRETRY": "1"},
            check=False,
            timeout=LIMIT_S,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 or "uth" in done.stderr, done.stderr
        return done.returncode == 0

    @property
    def mount(self) -> dict[str, Any]:
        return {
            "driver": "xrootd",
            "source": f"root://localhost:{self.port}//data",
            "ca_directory": str(self.authorities),
            "xrdcl": {
                "ConnectionWindow": 2,
                "StreamErrorWindow": 2,
                "RequestTimeout": 4,
                "TimeoutResolution": 1,
            },
        }
