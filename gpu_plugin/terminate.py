# SPDX-License-Identifier: Apache-2.0
"""Ends a process of a container, by a pidfd, after making sure once more that it is that process
and still in that container. Decides nothing: `enforcement` did.

Blocks for as long as procfs takes; of any thread.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from agents import processes
from agents.container_cgroups import ContainerCgroup
from agents.hostfs import HostFs
from agents.processes import ProcessKey
from gpu_plugin.accounting import ContainerKey, Origin
from gpu_plugin.process_origins import ProcessOrigins
from gpu_plugin.verdicts import Outcome

#: What is sent to find out whether more may be sent.
_NOTHING = 0
_OTHER_PIDS = (
    "the host's process ids are not those of this agent: it needs the host's pid namespace "
    "(hostPID), and node.host.proc must be the host's"
)
_NOT_PERMITTED = (
    "not permitted to signal processes of containers: the agent needs the capability KILL, and a "
    "security profile that lets it"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of it; `explanation` says why it was not done (None: it was)."""

    outcome: Outcome
    explanation: str | None = None


_DONE = Ended(Outcome.DONE)
_GONE = Ended(Outcome.GONE, "it had ended")


class Terminator:
    """`look` tells anew which process a pid is and where; never from memory."""

    def __init__(self, host: HostFs, look: Callable[[int], Origin | None] | None = None) -> None:
        self._proc = host.proc
        self._look = look or (lambda pid: ProcessOrigins(host).look(pid))

    def signal(self, process: ProcessKey, container: ContainerKey, number: signal.Signals) -> Ended:
        """Send it to exactly this process, as long as it is in this container."""
        try:
            with processes.pinned(self._proc, process) as descriptor:
                if descriptor is None:
                    return _GONE
                # From here on the descriptor means one process, and the start time was its own: if
                # it ends meanwhile the signal reaches nobody, whoever has the pid by then.
                if (doubt := self._doubt(descriptor, process, container)) is not None:
                    return doubt
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return _GONE
        except PermissionError:
            return Ended(Outcome.REFUSED, _NOT_PERMITTED)
        except OSError as error:
            return Ended(Outcome.REFUSED, f"cannot make sure which process it is: {error}")
        return _DONE

    def problem(self, process: ProcessKey) -> str | None:
        """Why processes of containers cannot be ended from here (None: they can). Signal 0 does
        nothing but ask. Raises ProcessLookupError when this one has ended, and so tells nothing.
        """
        if not self._counts_alike():
            return _OTHER_PIDS
        with processes.pinned(self._proc, process) as descriptor:
            if descriptor is None:
                raise ProcessLookupError(process.pid)
            try:
                signal.pidfd_send_signal(descriptor, _NOTHING)
            except PermissionError:
                return _NOT_PERMITTED
        return None

    def _counts_alike(self) -> bool:
        """Whether the host's procfs numbers processes as our system calls do."""
        try:
            return str((self._proc / "self").readlink()) == str(os.getpid())
        except OSError:
            return False

    def _doubt(self, descriptor: int, process: ProcessKey, container: ContainerKey) -> Ended | None:
        """Why it is left alone; None: there is no doubt."""
        seen = processes.of_pidfd(self._proc, descriptor)
        if seen is None:
            return _GONE
        if seen != process.pid:
            return Ended(Outcome.REFUSED, _OTHER_PIDS)
        origin = self._look(process.pid)
        if origin is None or origin.key != process:
            return _GONE
        place = origin.place
        if not isinstance(place, ContainerCgroup):
            return Ended(Outcome.REFUSED, "it is in no container any more")
        if ContainerKey(place.pod_uid, place.container_id) != container:
            return Ended(Outcome.REFUSED, f"it is in container {place.container_id} now")
        return None
