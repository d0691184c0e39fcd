# SPDX-License-Identifier: Apache-2.0
"""The configuration file: one YAML for the node, one section per agent, decoded strictly.

The file decides; only identity (NODE_NAME) comes from the environment. Sections are described by
the packages that own them: this module knows `node` alone, and reads the others through the models
it is handed.
"""

from __future__ import annotations

import enum
import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from agents import hostfs
from agents.api_server_config import ApiServerConfig
from agents.config_values import FOR_RUNNING as FOR_RUNNING
from agents.config_values import Duration as Duration
from agents.config_values import HostPath as HostPath
from agents.config_values import OwnDirectory as OwnDirectory
from agents.config_values import Port as Port
from agents.config_values import Section as Section
from agents.config_values import Size as Size
from agents.config_values import ip_address
from agents.config_values import parse_duration as parse_duration
from agents.config_values import parse_size as parse_size
from agents.config_values import shown as shown
from agents.errors import ConfigError


class LogLevel(enum.Enum):
    """Least severity that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.Enum):
    """One JSON object a line, or text for a terminal."""

    JSON = "json"
    TEXT = "text"


class HostConfig(Section):
    """Prefixes of the host's kernel file systems."""

    proc: HostPath = hostfs.PROC
    sys: HostPath = hostfs.SYS
    dev: HostPath = hostfs.DEV
    cgroup: HostPath = hostfs.CGROUP

    def host_fs(self) -> hostfs.HostFs:
        return hostfs.HostFs(self.proc, self.sys, self.dev, self.cgroup)


class Ports(Section):
    """TCP ports of the metrics listeners; 0 takes a free one."""

    gpu_plugin: Port = 9401
    fuse_mounter: Port = 9402
    lxcfs_helper: Port = 9403


class MetricsConfig(Section):
    """Where Prometheus finds each agent: from other machines, hence on all addresses."""

    address: Annotated[str, BeforeValidator(ip_address)] = "0.0.0.0"  # noqa: S104
    ports: Ports = Ports()


class StatusPorts(Section):
    """TCP ports of the status pages; 0 takes a free one."""

    gpu_plugin: Port = 9411
    fuse_mounter: Port = 9412
    lxcfs_helper: Port = 9413
    #: The page of all of them, which `nodeshare up` serves.
    up: Port = 9410


class StatusConfig(Section):
    """Where people find each agent's page.

    It names everybody's pods: loopback, or a bearer token.
    """

    address: Annotated[str, BeforeValidator(ip_address)] = "127.0.0.1"
    ports: StatusPorts = StatusPorts()
    #: A file whose first line is the token that a reader must send; None: no token.
    token_file: HostPath | None = None

    @model_validator(mode="after")
    def _token_unless_loopback(self) -> StatusConfig:
        if self.token_file is None and not ipaddress.ip_address(self.address).is_loopback:
            raise ValueError(
                f"address {self.address!r} can be reached from other machines;"
                " set token_file, or use 127.0.0.1"
            )
        return self


class LogConfig(Section):
    """What agents write to stdout."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.JSON


class HolderConfig(Section):
    """The process that keeps FUSE clients (`agents.holder`)."""

    #: Whether an agent may start it. False where it has a pod or a service of its own (`nodeshare
    #: run holder`): there an agent only looks for it.
    start: Annotated[bool, Field(strict=True)] = True
    #: In a pod or a service of its own, which ends its clients with it: so long they may take to
    #: write back what they have, when the holder is told to end. 0 leaves them alone: for a service
    #: whose end they survive (systemd's KillMode=process).
    end_limit: Duration = 150.0
    #: In a pod or a service of its own: whether it listens for OCI runtimes at once, so that no
    #: container with one of our seccomp profiles has to wait for an agent. An agent that answers
    #: their calls asks its holder for that anyway.
    seccomp_socket: Annotated[bool, Field(strict=True)] = False


_SELINUX_LABEL = re.compile(r"[\w.-]+:[\w.-]+:[\w.-]+(:[\w.,:-]+)?", re.ASCII)


def _selinux_label(label: str) -> str:
    if not _SELINUX_LABEL.fullmatch(label):
        raise ValueError(
            f"{shown(label)} is not a label of SELinux; write user:role:type:level, such as "
            "system_u:object_r:container_file_t:s0"
        )
    return label


class NodeConfig(Section):
    """Shared by all agents of the node."""

    #: Name of this node; None takes NODE_NAME from the environment, else the host name.
    name: str | None = None
    host: HostConfig = HostConfig()
    state_dir: HostPath = hostfs.STATE_DIR
    run_dir: HostPath = hostfs.RUN_DIR
    kubelet_dir: HostPath = hostfs.KUBELET_DIR
    cri_socket: HostPath = hostfs.CRI_SOCKET
    #: SELinux: what containers of users may read gets this label (their GPU's files, views, tokens,
    #: the root of mounts). None: what the policy of the node gives.
    selinux_label: Annotated[str, AfterValidator(_selinux_label)] | None = None
    metrics: MetricsConfig = MetricsConfig()
    status: StatusConfig = StatusConfig()
    log: LogConfig = LogConfig()
    api_server: ApiServerConfig = ApiServerConfig()
    holder: HolderConfig = HolderConfig()

    def node_name(self) -> str:
        return self.name or os.environ.get("NODE_NAME") or socket.gethostname()  # noqa: TID251 -- identity alone


@dataclass(frozen=True, slots=True)
class Config:
    """A whole valid file. `sections` holds only those that were written; `digest` changes with any
    byte.
    """

    node: NodeConfig
    sections: Mapping[str, Section]
    digest: str


def read(path: Path) -> str:
    """The text of a file that a person named. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from error


def load(path: Path, models: Mapping[str, type[Section]], *, only: str | None = None) -> Config:
    """Read and check a file. Raises ConfigError with *all* problems, one a line, path first."""
    return parse(read(path), models, only=only, name=str(path))


def parse(
    text: str,
    models: Mapping[str, type[Section]],
    *,
    only: str | None = None,
    name: str = "config",
) -> Config:
    """Check the text of a file; `name` stands before each problem.

    `only` decodes `node` and that one section (None: all): one agent's mistake must not keep the
    others from starting. A section that no agent owns is refused all the same. With `only`, a
    section may also take a value that costs a part of it alone: its agent says so, and serves the
    rest.
    """
    document = _decode(text, name)
    known: dict[str, type[Section]] = {"node": NodeConfig, **models}
    problems = [
        f"{key}: unknown key; known are {', '.join(sorted(known))}"
        for key in document
        if key not in known
    ]
    sections: dict[str, Section] = {}
    for key, model in known.items():
        if key == "node" or (key in document and only in (None, key)):
            try:
                sections[key] = model.model_validate(
                    _content(document, key), context={FOR_RUNNING: only is not None}
                )
            except ValidationError as error:
                problems += [describe(key, detail, model) for detail in error.errors()]
    if problems:
        raise ConfigError("\n".join(f"{name}: {problem}" for problem in problems))
    node = sections.pop("node")
    assert isinstance(node, NodeConfig)
    return Config(node, sections, digest(text))


def digest(text: str) -> str:
    """By which a file is known to say what it said before."""
    return hashlib.sha256(text.encode()).hexdigest()


def _content(document: dict[str, Any], key: str) -> Any:
    # A section that is written without content (`gpu_plugin:`) is all defaults.
    return {} if document.get(key) is None else document[key]


def describe(section: str, detail: ErrorDetails, model: type[Section]) -> str:
    """One pydantic problem as `path: what was found; what to write instead`."""
    path = ".".join([section, *(str(part) for part in detail["loc"])])
    value = detail.get("input")
    match detail["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key{_known_keys(model, detail['loc'])}"
        case "missing":
            return f"{path}: missing; this key has no default"
        case "value_error":
            return f"{path}: {detail['ctx']['error']}"
        case "union_tag_not_found":
            return f"{path}: the key {detail['ctx']['discriminator']} is missing"
        case "union_tag_invalid":
            kind = detail["ctx"]
            return f"{path}: {kind['tag']!r} is unknown; known are {kind['expected_tags']}"
        # As YAML calls them, and not as pydantic calls what we make of them.
        case "tuple_type" | "list_type":
            return f"{path}: {shown(value)}: input should be a list"
        case "dict_type" | "mapping_type" | "model_type":
            return f"{path}: {shown(value)}: input should be keys with values"
        case _:
            return f"{path}: {shown(value)}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _known_keys(model: type[Section], location: tuple[int | str, ...]) -> str:
    """The keys that are allowed where the unknown one stands, as far as the path leads through
    sections and lists of them.
    """
    here: object = model
    for part in location[:-1]:
        if isinstance(part, int):
            here = next(iter(get_args(here)), None)
        else:
            section = _section(here)
            field = None if section is None else section.model_fields.get(part)
            here = None if field is None else field.annotation
    found = _section(here)
    return "" if found is None else f"; known are {', '.join(sorted(found.model_fields))}"


def _section(annotation: object) -> type[Section] | None:
    """The section that this is, or may be (`Section | None`); None also where it may be several."""
    choices = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    found = [one for one in choices if isinstance(one, type) and issubclass(one, Section)]
    return found[0] if len(found) == 1 else None


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is written twice: YAML would silently keep the last."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise ConfigError(f"line {line}: the key {key!r} is written twice; keep one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _decode(text: str, name: str) -> dict[str, Any]:
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 -- derives from SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}") from error
    # ValueError and TypeError: a date that is none, a key that cannot be one.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(
            f"{name}: the file holds {type(document).__name__}, not sections with keys"
        )
    if odd := [key for key in document if not isinstance(key, str)]:
        raise ConfigError(f"{name}: {odd[0]!r}: a section name must be text")
    return document
