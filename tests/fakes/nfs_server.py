# SPDX-License-Identifier: Apache-2.0
"""An NFSv4 server in user space (nfs-ganesha of Debian) on loopback: no rpcbind, no Kerberos, no
kernel server. Exports a directory with a file `who`; can be stopped, killed and started again.

Without a period of grace: it lets clients take up their locks for ten seconds after each start, in
which it answers nobody else. NFSv3 it does not serve without rpcbind.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.fakes.servers import Server

#: How clients name what is exported, below the server's pseudo root.
EXPORT = "/exp"
#: It is there, and no client may have it.
DENIED = "/denied"
#: This machine's loopback, as a guest sees it.
GUEST_ADDRESS = "10.0.2.2"

_CONFIGURATION = """\
NFS_CORE_PARAM {{
  Protocols = 4; Bind_addr = 127.0.0.1; NFS_Port = {port};
  Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
}}
NFSV4 {{ Graceless = true; Lease_Lifetime = 30; RecoveryRoot = {state}; Minor_Versions = 0,1,2; }}
NFS_KRB5 {{ Active_krb5 = false; CCacheDir = {state}; }}
EXPORT_DEFAULTS {{ SecType = sys; Squash = No_root_squash; }}
EXPORT {{ Export_Id = 1; Path = {data}; Pseudo = /exp; Access_Type = RW; FSAL {{ Name = VFS; }} }}
EXPORT {{
  Export_Id = 2; Path = {denied}; Pseudo = /denied; Access_Type = None;
  CLIENT {{ Clients = 192.0.2.1; Access_Type = RW; }}
  FSAL {{ Name = VFS; }}
}}
"""


class NfsServer(Server):
    """nfs-ganesha. Its `mount` is an entry for an agent in the guest."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        state, denied = directory / "state", directory / "denied"
        for one in (state, denied):
            one.mkdir()
        (directory / "ganesha.conf").write_text(
            _CONFIGURATION.format(port=self.port, state=state, data=self.data, denied=denied)
        )

    def command(self) -> list[str]:
        files = ["-f", "ganesha.conf", "-L", "/dev/stdout", "-p", "ganesha.pid"]
        return ["ganesha.nfsd", "-F", *files, "-N", "NIV_EVENT"]

    def make_anew(self) -> None:
        """Another directory at the same path, as after a restore: clients' handles are stale."""
        self.kill()
        shutil.rmtree(self.data)
        self.data.mkdir()
        (self.data / "who").write_text("the server, made anew\n")
        self.start()

    def stop(self) -> None:
        """It answers nobody, and its connections stay, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    @property
    def mount(self) -> dict[str, Any]:
        return {
            "driver": "nfs",
            "source": f"{GUEST_ADDRESS}:{EXPORT}",
            "options": [f"port={self.port}"],
        }
