# SPDX-License-Identifier: Apache-2.0
"""The `limit` key of a resource and the `enforcement` key of the section: how much a container may
have of what it was given, and what is done to one that has more. Knows no device and no container.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from agents.config import Duration, Section, Size, shown

#: A qualified name of Kubernetes: a DNS domain, `/`, then at most 63 characters.
_ANNOTATION = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9]([-\w.]{0,61}\w)?", re.A)
#: A shorter period is more work than any answer of the driver is worth.
_SHORTEST_PERIOD_S = 0.02


class Policy(enum.Enum):
    """What a container may have whose pod says nothing: what it asked for (`request`), or
    `max_ratio` times as much while the device has room (`burst`).
    """

    REQUEST = "request"
    BURST = "burst"


def _annotation(key: str | None) -> str | None:
    if key is not None and not _ANNOTATION.fullmatch(key):
        raise ValueError(
            f"{shown(key)} is not the name of an annotation with its domain, such as "
            "nodeshare/gpu-memory-limit; or null for none"
        )
    return key


class LimitConfig(Section):
    """`annotation` is the pod's way to say its limit (`<annotation>.<container>` for one of its
    containers); None: it has none. Neither way gives more than `max_ratio` times the request.
    """

    policy: Policy = Policy.REQUEST
    max_ratio: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 2.0
    annotation: Annotated[str | None, AfterValidator(_annotation)] = "nodeshare/gpu-memory-limit"


class Mode(enum.Enum):
    """`observe` says what `enforce` would do, and does nothing; `disabled` does not even look."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    DISABLED = "disabled"


class BackendChoice(enum.Enum):
    """`driver`: the driver refuses memory above the limit (r615 and cgroup v2; not on MIG).
    `terminate`: processes are ended. `auto`: the driver where it can. Where the driver cannot, or
    its limit turns out not to hold, processes are ended in any case.
    """

    AUTO = "auto"
    DRIVER = "driver"
    TERMINATE = "terminate"


class Uninvited(enum.Enum):
    """What happens to processes in containers that were given nothing of the device."""

    REPORT = "report"
    TERMINATE = "terminate"


def _period(value: float) -> float:
    if value < _SHORTEST_PERIOD_S:
        raise ValueError(f"must be at least {_SHORTEST_PERIOD_S * 1000:.0f}ms")
    return value


Period = Annotated[Duration, AfterValidator(_period)]


class EnforcementConfig(Section):
    """`period` passes between two looks, `pressure_period` while a device is short of memory.

    A container over its limit is warned, and has `grace` to come back; above its request, while
    others lack what they are guaranteed, `pressure_grace`. Then processes get SIGTERM, and SIGKILL
    `kill_after` (`pressure_kill_after`) later. A device is short when less is free than what
    others are guaranteed and do not use; of that no more than `headroom` is kept ready.
    """

    mode: Mode = Mode.ENFORCE
    backend: BackendChoice = BackendChoice.AUTO
    uninvited: Uninvited = Uninvited.REPORT
    period: Period = 1.0
    pressure_period: Period = 0.1
    grace: Duration = 10.0
    pressure_grace: Duration = 0.0
    kill_after: Duration = 5.0
    pressure_kill_after: Duration = 0.5
    headroom: Size = 1 << 30

    @model_validator(mode="after")
    def _consistent(self) -> EnforcementConfig:
        for hurried, usual in (
            ("pressure_period", "period"),
            ("pressure_grace", "grace"),
            ("pressure_kill_after", "kill_after"),
        ):
            if hurried in self.model_fields_set and getattr(self, hurried) > getattr(self, usual):
                raise ValueError(f"{hurried} is longer than {usual}; under pressure there is less")
        return self
