# SPDX-License-Identifier: Apache-2.0
"""The `gpu_plugin` section: which devices are offered under which resource name, and in what units.

Checks what can be known without a machine; what a rule means on one is decided in `resources`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from agents.config import FOR_RUNNING, HostPath, Section, Size
from gpu_plugin.container_config import ContainerConfig
from gpu_plugin.enforcement_config import EnforcementConfig, LimitConfig
from gpu_plugin.health_config import HealthConfig

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


def _resource_name(name: str, info: ValidationInfo) -> str:
    """A running agent takes a bad name too, and serves the other resources: the plan says it."""
    if not (info.context or {}).get(FOR_RUNNING):
        check_resource_name(name)
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


PositiveSize = Annotated[Size, AfterValidator(_positive)]
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


def _unit_counts(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{value!r} is not a list of numbers of units, such as [8, 20]")
    return value


class HonestCapacity(Section):
    """What pods of this resource ask for, in units: free units of a device that none of these
    sizes can use are not shown to the scheduler.
    """

    sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, strict=True)], ...], BeforeValidator(_unit_counts)
    ]


def _blocks(value: object) -> object:
    if value is not None and (not isinstance(value, dict) or not value):
        raise ValueError(f"{value!r}: write a name and a size for each block, such as {{8g: 8GiB}}")
    return value


class ResourceRule(Section):
    """One resource name and the devices that serve it.

    Units of a device = floor((total - reserved by the driver - `reserved`) x `overcommit` /
    `chunk`); `exclusive`: one unit, the whole device. `split`: a request may span devices.

    `blocks` are size classes instead of a chunk: each is a resource of its own, `<name>-<key>`,
    whose unit is one block of that size; all share the memory of the same devices.
    """

    name: Annotated[str, AfterValidator(_resource_name)]
    select: Select = Select()
    chunk: PositiveSize = GIB
    blocks: (
        Annotated[
            Mapping[Annotated[str, Field(min_length=1)], PositiveSize], BeforeValidator(_blocks)
        ]
        | None
    ) = None
    reserved: Size = 0
    overcommit: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    placement: Placement = Placement.PACK
    split: bool = False
    exclusive: bool = False
    honest_capacity: HonestCapacity | None = None
    limit: LimitConfig = LimitConfig()

    @property
    def sizes(self) -> dict[str, int | None]:
        """Bytes of one unit by resource name; None: a whole device."""
        if self.blocks is not None:
            return {f"{self.name}-{key}": size for key, size in self.blocks.items()}
        return {self.name: None if self.exclusive else self.chunk}

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> ResourceRule:
        written = {key for key in self.model_fields_set if getattr(self, key) not in (None, False)}
        for key, (why, idle) in _MEANINGLESS_WITH.items():
            if key in written and (found := sorted(idle & written)):
                raise ValueError(f"{key}: {why}, so {', '.join(found)} means nothing; leave it out")
        if self.blocks is not None:
            for name in self.sizes:
                _resource_name(name, info)
        return self


_MEANINGLESS_WITH = {
    "exclusive": (
        "one unit is the whole device",
        {"chunk", "reserved", "overcommit", "blocks", "honest_capacity", "limit"},
    ),
    "blocks": ("a unit is a block, and its number is exact", {"chunk", "honest_capacity"}),
    "split": ("a request may use what is left on any device", {"honest_capacity"}),
}


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
        names = _names_of(rule)
        for name in sorted(names & seen.keys()):
            text = f"resources.{seen[name]} has this name already; give each resource its own"
            problems.append(
                InitErrorDetails(
                    type=PydanticCustomError("duplicate", text),
                    loc=(index, "name"),
                    input=name,
                )
            )
        seen = dict.fromkeys(names, index) | seen
    return problems


def _names_of(rule: object) -> set[str]:
    """The rule's own name and those of its blocks, also of a rule that is wrong otherwise."""
    if isinstance(rule, ResourceRule):
        return {rule.name, *rule.sizes}
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str):
        return set()
    blocks = rule.get("blocks")
    keys = blocks if isinstance(blocks, dict) else {}
    return {rule["name"], *(f"{rule['name']}-{key}" for key in keys)}


class GpuPluginConfig(Section):
    """Without resources the agent is ready and idle.

    `simulate` takes a machine description (a name or a file) instead of the driver, for a machine
    without GPUs; `simulated_state` is the file that says what runs on the simulated devices.
    """

    resources: Annotated[tuple[ResourceRule, ...], WrapValidator(_names_once)] = ()
    simulate: Annotated[str, Field(min_length=1)] | None = None
    simulated_state: HostPath | None = None
    container: ContainerConfig = ContainerConfig()
    health: HealthConfig = HealthConfig()
    enforcement: EnforcementConfig = EnforcementConfig()

    @model_validator(mode="after")
    def _consistent(self) -> GpuPluginConfig:
        if self.simulated_state is not None and self.simulate is None:
            raise ValueError("simulated_state without simulate: name the machine to simulate")
        return self
