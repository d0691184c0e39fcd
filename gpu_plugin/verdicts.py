# SPDX-License-Identifier: Apache-2.0
"""What was found about the memory of containers, and what was done about it. Values; decide nothing
(`limits` and `enforcement` do) and know no signal, NVML or file.

Memory is in bytes; `at` is on the monotonic clock, `wall` seconds of the epoch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from agents.processes import ProcessKey
from gpu_plugin.accounting import ContainerKey


class Backend(enum.Enum):
    """Who holds a container to its limit. `none`: nobody does."""

    DRIVER = "driver"
    TERMINATE = "terminate"
    NONE = "none"


class Standing(enum.Enum):
    """Where a container stands on a device.

    `above_request` is within the limit, and stays while the device has room. `over_limit`: above
    the limit, and nothing was said of it yet. `warned`: the grace is running. `terminating`:
    processes are being ended. `uninvited`: it was given nothing of the device. `unknown`: the
    driver does not tell, or what it tells cannot be.
    """

    BELOW = "below"
    ABOVE_REQUEST = "above_request"
    OVER_LIMIT = "over_limit"
    WARNED = "warned"
    TERMINATING = "terminating"
    UNINVITED = "uninvited"
    UNKNOWN = "unknown"


class Action(enum.Enum):
    """`warn`: the grace begins; `terminate`: SIGTERM; `kill`: SIGKILL; `spare`: it is within what
    it may have again, and what was begun is given up.
    """

    WARN = "warn"
    TERMINATE = "terminate"
    KILL = "kill"
    SPARE = "spare"


class Reason(enum.Enum):
    """`pressure`: above its request while others lack what they are guaranteed."""

    OVER_LIMIT = "over_limit"
    PRESSURE = "pressure"
    UNINVITED = "uninvited"


class Outcome(enum.Enum):
    """`observed`: would have been done (mode `observe`, or another agent does it); `gone`: the
    process had ended, or its pid was another's by then; `refused`: in doubt about who it is, or not
    permitted; `explanation` says why.
    """

    PLANNED = "planned"
    DONE = "done"
    OBSERVED = "observed"
    GONE = "gone"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may have of one device. `limit` None: all of it, nothing is enforced (an
    exclusive device). `guarantee` is what it always gets: the request, less what the rule
    overcommits.

    `source` says in words where the limit comes from; `problem` what is wrong with what somebody
    wrote, and what holds instead (None: nothing is wrong).
    """

    request: int
    limit: int | None
    guarantee: int
    source: str
    problem: str | None = None

    @property
    def bursts(self) -> bool:
        """May have more than it asked for while the device has room."""
        return self.limit is not None and self.limit > self.request


@dataclass(frozen=True, slots=True)
class Verdict:
    """One container on one device, in one scan. `used` None: of one of its processes it is not
    known; `known` is the sum of the others, which it holds at least.

    `grace_left_s` is how long it may stay so (None: nothing is threatened, or it is being done),
    `pressure` whether others lack what they are guaranteed on this device. `at_limit` says in words
    what happens at the limit; `note` what an operator should know of the backend (None: nothing).
    """

    container: ContainerKey
    device: str
    limits: Limits
    used: int | None
    known: int
    standing: Standing
    backend: Backend
    at_limit: str
    pressure: bool = False
    grace_left_s: float | None = None
    note: str | None = None

    @property
    def over(self) -> bool:
        """Holds more than its limit, as far as is known."""
        return self.limits.limit is not None and self.known > self.limits.limit


@dataclass(frozen=True, slots=True)
class Act:
    """One thing done to a container, or that would have been. `process` None: to none of its
    processes (a warning); `command` and `held` are the name of its program and what it held.

    `used` is what the container held of the device, `allowed` what it may have there: its limit,
    under pressure its request, 0 uninvited. `main`: the process is the container's first, which
    ends with it. `since`, for the first act of a case, is the last look before the one that found
    the reason: since then at most it was so (None: an act that follows from an earlier one).
    """

    action: Action
    reason: Reason
    container: ContainerKey
    device: str
    at: float
    wall: float
    used: int
    allowed: int
    since: float | None = None
    process: ProcessKey | None = None
    command: str = ""
    held: int | None = None
    main: bool = False
    grace_s: float = 0.0
    outcome: Outcome = Outcome.PLANNED
    explanation: str | None = None
