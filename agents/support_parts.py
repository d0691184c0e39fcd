# SPDX-License-Identifier: Apache-2.0
"""What goes into a support bundle: each part reads one kind of thing and returns it as text or as a
document. May raise anything, and may hang: whoever calls limits it. Takes no secret out itself.
"""

from __future__ import annotations

import http.client
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from agents import config, holder_start, hostfs, mountinfo, overview
from agents.agent import Agent, models
from agents.config import NodeConfig, Section
from agents.errors import AgentError, Unavailable
from agents.mounts import LinuxMounts
from agents.redaction import secrets_in

_TIMEOUT_S = 2.0
_LONGEST_METRICS = 2 << 20
#: Of one log its end counts.
_LONGEST_LOG, _MOST_LOGS = 256 << 10, 40
_LONGEST_SECRET, _MOST_SECRETS = 64 << 10, 1000
_DEEPEST = 4
_MOST_CGROUPS = 3000
#: Below such a key of the configuration a path is that of a file with secrets, or of a directory.
_SECRET_KEYS = ("credential", "secret", "token", "keytab", "_key")


@dataclass(frozen=True, slots=True)
class Subject:
    """A node. `text` is its configuration as it is written, `named_secrets` what in it is called a
    secret; `problems` are what is wrong with it.
    """

    agents: Sequence[Agent]
    node: NodeConfig
    sections: Mapping[str, Section] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    named_secrets: frozenset[str] = frozenset()
    problems: Sequence[str] = ()


def subject(agents: Sequence[Agent], path: Path | None) -> Subject:
    """A configuration that is wrong is a reason to ask for support: it is told, and the defaults
    are gone by. Raises ConfigError when the file cannot be read.
    """
    if path is None:
        return Subject(agents, NodeConfig(), problems=["config.yaml: none was named with --config"])
    text = config.read(path)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:  # its text quotes the file
        problem = f"config.yaml: it is no YAML ({type(error).__name__}); nodeshare check says where"
        return Subject(agents, NodeConfig(), problems=[problem])
    document = document if isinstance(document, dict) else {}
    named = frozenset(secrets_in(document))
    try:
        loaded = config.load(path, models(agents))
    except AgentError:
        problem = "config.yaml: it is wrong, and defaults were gone by; nodeshare check says why"
        return Subject(agents, _node(text), {}, document, named, [problem])
    return Subject(agents, loaded.node, loaded.sections, document, named)


def _node(text: str) -> NodeConfig:
    """Of a file in which something else may be wrong."""
    try:
        return config.parse(text, {}, only="node").node
    except AgentError:
        return NodeConfig()


def known_secrets(subject: Subject) -> frozenset[str]:
    """What the configuration calls a secret, and every word of the files with secrets that it
    names.
    """
    sections = {name: section.model_dump() for name, section in subject.sections.items()}
    values = {"node": subject.node.model_dump(), **sections, "written": subject.document}
    found = set(subject.named_secrets)
    for file in list(_files_of(sorted(_paths(values))))[:_MOST_SECRETS]:
        try:
            if file.is_file() and file.stat().st_size <= _LONGEST_SECRET:
                found |= _words(file.read_text(errors="replace"))
        except OSError:
            continue
    return frozenset(found)


def _words(text: str) -> set[str]:
    """What may be a secret: no plain word, no path."""
    words = {word for part in text.split() for word in (part, part.strip("\"',;"))}
    words |= {word.partition(mark)[2].strip("\"',") for word in words for mark in ("=", ":")}
    return {word for word in words if len(word) >= 12 or (len(word) >= 8 and not word.isalpha())}


def _paths(value: object, secret: bool = False) -> Iterator[Path]:
    match value:
        case Mapping():
            for key, one in value.items():
                yield from _paths(one, secret or any(w in str(key).lower() for w in _SECRET_KEYS))
        case str() | Path() if secret and str(value).startswith("/"):
            yield Path(value)
        case list() | tuple():
            for one in value:
                yield from _paths(one, secret)


def _files_of(paths: Iterable[Path]) -> Iterator[Path]:
    """Two levels: a directory for each user, with a file for each token."""
    for path in paths:
        yield path
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else []
            yield from inside
            for one in inside:
                yield from sorted(one.iterdir()) if one.is_dir() else []
        except OSError:
            continue


def status(subject: Subject, agent: Agent) -> Mapping[str, object]:
    """Its own document. Raises Unavailable."""
    (seen,) = overview.look([agent], subject.node.run_dir)
    if seen.document is None:
        raise Unavailable(seen.problem)
    return {"": seen.document}


def metrics(subject: Subject, agent: Agent) -> Mapping[str, object]:
    """Raises Unavailable, OSError."""
    document = status(subject, agent)[""]
    assert isinstance(document, dict)
    where = urlsplit(str(document.get("metrics")))
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port or 0, timeout=_TIMEOUT_S
    )
    try:
        connection.request("GET", "/metrics")
        return {"": connection.getresponse().read(_LONGEST_METRICS).decode(errors="replace")}
    finally:
        connection.close()


def _about(subject: Subject) -> Mapping[str, object]:
    release = platform.freedesktop_os_release() if hostfs.OS_RELEASE.exists() else {}
    versions = {one.name: one.version for one in distributions()}
    return {
        "": {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "node": subject.node.node_name(),
            "nodeshare": versions.get("nodeshare"),
            "python": sys.version,
            "kernel": " ".join(os.uname()[:1] + os.uname()[2:]),
            "system": release.get("PRETTY_NAME"),
            "processors": os.cpu_count(),
            "libraries": dict(sorted(versions.items())),
        }
    }


def _configuration(subject: Subject) -> Mapping[str, object]:
    """As it is written; the redaction goes by its keys, so it is a document here."""
    return {"": subject.document}


def _kernel(subject: Subject) -> Mapping[str, object]:
    host = subject.node.host.host_fs()
    features = asdict(LinuxMounts().features())
    files = {str(path): _read(host.located(path)) for path in hostfs.KERNEL_FACTS}
    files[str(host.fuse_request_timeout)] = _read(host.fuse_request_timeout)
    return {"": {"mounts": features, "files": files}}


def _read(path: Path) -> str | None:
    """None: it is not there, or may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(64 << 10).decode(errors="replace").strip()
    except OSError:
        return None


def _mounts(subject: Subject) -> Mapping[str, object]:
    """FUSE and network file systems, cgroups, and all that is below our directories."""
    node = subject.node
    places = (node.run_dir, node.state_dir, *_roots(subject))
    lines = _read(node.host.proc / "self/mountinfo") or ""
    kept = [line for line in lines.split("\n") if _relevant(line, tuple(map(str, places)))]
    return {"": "\n".join(kept) + "\n"}


def _roots(subject: Subject) -> Iterator[Path]:
    for section in subject.sections.values():
        for name in ("root", "compat_root"):
            value = getattr(section, name, None)
            if isinstance(value, Path):
                yield value


def _relevant(line: str, places: tuple[str, ...]) -> bool:
    (entry,) = mountinfo.parse(line) or (None,)
    if entry is None:
        return False
    kinds = ("fuse", "nfs", "cgroup", "cifs", "ceph", "autofs")
    return (
        entry.fstype.startswith(kinds)
        or "nodeshare" in entry.source
        or any(
            entry.mount_point == one or entry.mount_point.startswith(f"{one}/") for one in places
        )
    )


def _cgroups(subject: Subject) -> Mapping[str, object]:
    """The layout: directories, without what is in them."""
    root, found = subject.node.host.cgroup, list[str]()
    for directory, names, _ in os.walk(root):
        depth = len(Path(directory).relative_to(root).parts)
        names[:] = sorted(names) if depth < _DEEPEST else []
        found.append(directory)
        if len(found) >= _MOST_CGROUPS:
            found.append("… and more")
            break
    own = _read(subject.node.host.proc / "self/cgroup")
    return {"": f"{own}\n\n" + "\n".join(found) + "\n"}


def _processes(subject: Subject) -> Mapping[str, object]:
    """Agents, the holder with its clients, and whoever waits for a device or a server: without
    arguments, which may hold anything.
    """
    host, run_dir = subject.node.host.host_fs(), subject.node.run_dir
    groups = holder_start.own_cgroups(host.cgroup, holder_start.socket_path(run_dir))
    held = {pid for group in groups for pid in (_read(group / "cgroup.procs") or "").split()}
    held |= {str(overview.serving_pid(run_dir / f"{one.noun}.sock")) for one in subject.agents}
    rows = ["pid state name waits-in"]
    for path in host.proc.iterdir():
        if not path.name.isdigit():
            continue
        head, _, tail = (_read(path / "stat") or "").rpartition(")")
        state = tail.split()[0] if tail.split() else "?"
        if path.name in held or state == "D":
            rows.append(f"{path.name} {state} {head.partition('(')[2]!r} {_read(path / 'wchan')}")
    return {"": "\n".join(rows) + "\n"}


def _logs(subject: Subject) -> Mapping[str, object]:
    """The last lines of each below the run directory; agents in pods write theirs to stdout."""
    run_dir = subject.node.run_dir
    mounted = {entry.mount_point for entry in mountinfo.read(subject.node.host.proc)}
    found = {}
    for path in list(_below(run_dir, mounted, 4))[:_MOST_LOGS]:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LONGEST_LOG))
            name = str(path.relative_to(run_dir)).replace("/", "-")
            found[name] = file.read(_LONGEST_LOG).decode(errors="replace")
    if not found:
        raise Unavailable(
            f"no log is below {str(run_dir)!r}",
            remedy="agents in pods write to stdout: kubectl logs --all-containers",
        )
    return found


def _below(directory: Path, mounted: set[str], depth: int) -> Iterator[Path]:
    """Logs in there, without looking into (or even at) what is mounted."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.path in mounted:
            continue
        if entry.is_dir(follow_symlinks=False) and depth:
            yield from _below(Path(entry.path), mounted, depth - 1)
        elif ".log" in entry.name and entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


#: By the name of the file, or of the directory, in the archive.
PARTS: Mapping[str, Callable[[Subject], Mapping[str, object]]] = {
    "about.json": _about,
    "config.json": _configuration,
    "kernel.json": _kernel,
    "mountinfo.txt": _mounts,
    "cgroups.txt": _cgroups,
    "processes.txt": _processes,
    "logs": _logs,
}
