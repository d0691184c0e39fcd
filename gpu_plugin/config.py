# SPDX-License-Identifier: Apache-2.0
"""The `gpu_plugin` section: which devices are offered under which resource name, and in what units.

Checks what can be known without a machine; what a rule means on one is decided in `resources`.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from agents.config import HostPath, Section, Size

GIB = 1 << 30

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PROFILE = re.compile(r"(\d+c\.)?\d+g\.\d+gb(\+[a-z0-9.]+)*")
# A quota on the resource is called `requests.<name>`; the API server wants that to be valid too.
_LONGEST_DOMAIN = 253 - len("requests.")
_LONGEST_NAME = 63


def check_resource_name(name: str) -> str:
    """An extended resource name as the API server accepts it. Raises ValueError."""
    domain, slash, rest = name.rpartition("/")
    if not slash:
        raise ValueError(
            f"{name!r} has no domain before a '/'; write a name such as nodeshare/gpu-memory"
        )
    if "kubernetes.io/" in name:
        raise ValueError(
            f"{name!r}: names in kubernetes.io belong to Kubernetes; use another domain"
        )
    if name.startswith("requests."):
        raise ValueError(f"{name!r}: Kubernetes reads 'requests.' as a quota; use another domain")
    if not _DOMAIN.fullmatch(domain) or len(domain) > _LONGEST_DOMAIN:
        raise ValueError(
            f"{name!r}: {domain!r} is not a DNS domain of lower-case letters, digits, '-' and '.' "
            f"with at most {_LONGEST_DOMAIN} characters"
        )
    if not _NAME.fullmatch(rest) or len(rest) > _LONGEST_NAME:
        raise ValueError(
            f"{name!r}: {rest!r} must be letters, digits, '-', '_' and '.', begin and end with a "
            f"letter or digit, and have at most {_LONGEST_NAME} characters"
        )
    return name


class MigFilter(enum.Enum):
    """`none`: whole GPUs only; `any`: every MIG slice."""

    NONE = "none"
    ANY = "any"


class Placement(enum.Enum):
    """`pack`: the fullest device that still fits; `spread`: the emptiest; `numa`: as `pack`, and
    the kubelet's topology manager is told where each device is.
    """

    PACK = "pack"
    SPREAD = "spread"
    NUMA = "numa"


def _mig(value: object) -> object:
    if isinstance(value, list) and value:
        for profile in value:
            if not isinstance(profile, str) or not _PROFILE.fullmatch(profile):
                raise ValueError(f"{profile!r} is not a MIG profile, such as '1g.10gb'")
        return tuple(value)
    if isinstance(value, str) and value in {choice.value for choice in MigFilter}:
        return MigFilter(value)
    if isinstance(value, MigFilter):
        return value
    raise ValueError(f"{value!r} is not none, any or a list of profiles such as ['1g.10gb']")


def _not_empty(value: object) -> object:
    if isinstance(value, list | tuple) and not value:
        raise ValueError("an empty list matches nothing; leave the key out to not filter by it")
    return value


def _positive(value: int) -> int:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_not_empty)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_not_empty)]


class Select(Section):
    """Which devices a rule is about; a left-out selector does not filter.

    `models` are globs over the name the driver gives, `uuids` name slices or GPUs (then all its
    slices too), `mig_ids` are GPU-instance ids. `count` takes that many, in the order of the
    machine, before any rule without a count: so dedicated and shared slices of one profile live
    side by side.
    """

    models: Names | None = None
    uuids: Names | None = None
    indices: Numbers | None = None
    mig: Annotated[MigFilter | tuple[str, ...] | None, BeforeValidator(_mig)] = None
    mig_ids: Numbers | None = None
    count: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Select:
        if self.mig is MigFilter.NONE and self.mig_ids:
            raise ValueError(
                "mig_ids name slices, and mig: none excludes them; drop one of the two"
            )
        return self


class ResourceRule(Section):
    """One resource name and the devices that serve it.

    Units of a device = floor((total - reserved by the driver - `reserved`) x `overcommit` /
    `chunk`); `exclusive`: one unit, the whole device. `split`: a request may span devices.
    """

    name: Annotated[str, AfterValidator(check_resource_name)]
    select: Select = Select()
    chunk: Annotated[Size, AfterValidator(_positive)] = GIB
    reserved: Size = 0
    overcommit: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    placement: Placement = Placement.PACK
    split: bool = False
    exclusive: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> ResourceRule:
        if self.exclusive:
            idle = {"chunk", "reserved", "overcommit"} & self.model_fields_set
            if idle:
                raise ValueError(
                    f"exclusive: one unit is the whole device, so {', '.join(sorted(idle))} "
                    "means nothing; leave it out"
                )
        return self


def _names_once(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Refuse a name that is written twice, together with all other problems of the list."""
    problems: list[InitErrorDetails] = []
    result: Any = None
    try:
        result = handler(value)
    except ValidationError as error:
        problems = [_again(detail) for detail in error.errors(include_url=False)]
    problems += _duplicates(value)
    if problems:
        raise ValidationError.from_exception_data("resources", problems)
    return result


def _again(detail: Any) -> InitErrorDetails:
    again = InitErrorDetails(type=detail["type"], loc=detail["loc"], input=detail.get("input"))
    if "ctx" in detail:
        again["ctx"] = detail["ctx"]
    return again


def _duplicates(value: object) -> list[InitErrorDetails]:
    seen: dict[str, int] = {}
    problems: list[InitErrorDetails] = []
    for index, rule in enumerate(value if isinstance(value, list | tuple) else ()):
        name = rule.get("name") if isinstance(rule, dict) else getattr(rule, "name", None)
        if not isinstance(name, str):
            continue
        if name in seen:
            text = f"resources.{seen[name]} has this name already; give each resource its own"
            problems.append(
                InitErrorDetails(
                    type=PydanticCustomError("duplicate", text),
                    loc=(index, "name"),
                    input=name,
                )
            )
        seen.setdefault(name, index)
    return problems


class GpuPluginConfig(Section):
    """Without resources the agent is ready and idle.

    `simulate` takes a machine description (a name or a file) instead of the driver, for a machine
    without GPUs; `simulated_state` is the file that says what runs on the simulated devices.
    """

    resources: Annotated[tuple[ResourceRule, ...], WrapValidator(_names_once)] = ()
    simulate: Annotated[str, Field(min_length=1)] | None = None
    simulated_state: HostPath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GpuPluginConfig:
        if self.simulated_state is not None and self.simulate is None:
            raise ValueError("simulated_state without simulate: name the machine to simulate")
        return self
