# SPDX-License-Identifier: Apache-2.0
"""Commands and tests in a virtual machine with Debian's kernel and pure cgroup v2.

Its files are this machine's own, read-only, so the very sources and virtual environment are used;
/run and /tmp are its own. It has a network of its own (10.0.2.15), in which 10.0.2.2 is this
machine's loopback; kernel modules such as `nfsv4` are loaded by name. Its kernel is the
distribution's, often older than the machine's own.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest import boot
from tests.guest.machine import GuestError, Machine

_HERE = Path(__file__).parent
_REPOSITORY = _HERE.parents[1]
#: What the guest may take beyond a command's own limit, to end it and to answer.
_GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended by itself. Of each output, the last 4 MiB."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test that ran in the guest: `passed`, `failed`, `error` or `skipped`, and what was said
    of it, with what its processes wrote to stderr."""

    name: str
    outcome: str
    text: str


class Guest:
    """One virtual machine, running from `boot` to `close`."""

    def __init__(self, *, memory_mib: int = 1024, cpus: int = 2) -> None:
        self._kernel = boot.find_kernel()
        self._machine = Machine(self._kernel, memory_mib=memory_mib, cpus=cpus)
        self.accelerator = ""

    def boot(self) -> None:
        """Raises Missing, GuestError."""
        self.accelerator = self._machine.boot()

    def close(self) -> None:
        self._machine.close()

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 60.0,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a program with arguments, or shell text, in the repository's directory.

        Raises GuestError when it does not end in time (then everything in the guest is ended), or,
        unless `check` is false, when it fails.
        """
        argv = ["/bin/bash", "-euc", command] if isinstance(command, str) else list(command)
        variables = {"PATH": boot.PATH, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
        variables |= environment or {}
        self._machine.send({"argv": argv, "environment": variables, "timeout_s": timeout_s})
        answer = self._machine.receive(timeout_s + _GRACE_S)
        done = Done(answer["returncode"], answer["stdout"], answer["stderr"])
        if not answer["in_time"]:
            raise GuestError(f"not in {timeout_s:g} s: {argv}\n{done.stdout}{done.stderr}")
        if check and done.returncode:
            raise GuestError(f"{done.returncode}: {argv}\n{done.stdout}{done.stderr}")
        return done

    def modprobe(self, *modules: str) -> None:
        """Load modules of the guest's kernel, with those that they need."""
        self.run(["modprobe", "-d", str(self._kernel.root), "-a", *modules])

    def pytest(self, *selection: str, timeout_s: float = 120.0) -> tuple[Outcome, ...]:
        """Run tests of this repository in the guest: files, node ids, options of pytest.

        Plugins are not loaded, except for limits of time: they take longer than the tests, where
        the processor is emulated. So no asynchronous test can run there.
        """
        report = "/tmp/report.xml"
        self.run(["rm", "-f", report])
        configured = ["-c", str(_HERE / "inside.ini"), f"--rootdir={_REPOSITORY}"]
        said = self.run(
            [sys.executable, "-m", "pytest", *configured, f"--junitxml={report}", *selection],
            timeout_s=timeout_s,
            check=False,
            environment={
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "NODESHARE_TEST_PATIENCE": "1" if self.accelerator == "kvm" else "10",
            },
        )
        if said.returncode not in (0, 1):
            raise GuestError(f"pytest ended with {said.returncode}\n{said.stdout}{said.stderr}")
        return tuple(_outcomes(self.run(["cat", report]).stdout))


def _outcomes(report: str) -> Iterator[Outcome]:
    for case in xml.fromstring(report).iter("testcase"):
        outcome, text = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = {"failure": "failed"}.get(child.tag, child.tag)
            text += child.text or child.get("message") or ""
        yield Outcome(f"{case.get('classname')}::{case.get('name')}", outcome, text)
