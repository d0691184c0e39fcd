# SPDX-License-Identifier: Apache-2.0
"""From raw facts (mount table, staging directories, the holder's clients, probe results) to an
observation. Pure: `reconciler` collects the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from agents import mountinfo
from agents.holder_client import HeldClient
from agents.mountinfo import MountEntry
from fuse_mounter.drivers.base import SOURCE_PREFIX
from fuse_mounter.observed import Client, Health, Instance, Layer, Observation, Shown, Stack
from fuse_mounter.places import (
    ANCHOR_SOURCE,
    END_LIMIT_VARIABLE,
    STAGING_VARIABLE,
    Places,
    StagingName,
)
from fuse_mounter.publication import Publication

#: Their show_path is a plain `/` (fs/nfs/super.c).
_SAY_NO_ROOT = ("nfs", "nfs4")

_Table = Mapping[str, Sequence[MountEntry]]


@dataclass(frozen=True, slots=True)
class Facts:
    """`staging`: names of directories. `health`: by those. `paths`: the configured ones.
    `obstacles`: by path. `also`: where else a mount is published, by its name. `pending`:
    directories that the kernel is asked to mount at. `contained`: our root is one that the host
    lent to us. `sources`: by path, what the mount table calls the source of a mount, where that is
    not ours to choose.
    """

    table: Sequence[MountEntry]
    staging: Collection[str]
    clients: Sequence[HeldClient]
    health: Mapping[str, Health]
    paths: Collection[str]
    obstacles: Mapping[str, str]
    also: Mapping[str, Sequence[Publication]] = field(default_factory=dict)
    pending: Collection[str] = ()
    contained: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)


def observe(places: Places, facts: Facts) -> Observation:
    """Everything that is there."""
    table = mountinfo.by_place(facts.table)
    instances = tuple(_instances(places, facts, table))
    known = set(_known(instances, facts.also))
    paths = set(facts.paths) | set(_anchored(places, facts.table))
    stacks = {
        path: _stack(_at(table, places.root / path), facts, path, known) for path in sorted(paths)
    }
    return Observation(_root_ready(places, facts, table), stacks, instances)


def _root_ready(places: Places, facts: Facts, table: _Table) -> bool:
    """Whether what is mounted below the root reaches pods."""
    if facts.contained:
        found = mountinfo.covering(facts.table, places.root)
        return found is not None and found.shared is not None
    root = _at(table, places.root)
    return bool(root) and root[-1].shared is not None


def _known(
    instances: Iterable[Instance], also: Mapping[str, Sequence[Publication]]
) -> Iterable[Shown]:
    """What our own mounts may show somewhere below the root."""
    for one in instances:
        if one.shown is not None:
            yield one.shown
            for publication in also.get(one.name, ()):
                shown = publication.shows(one.shown)
                assert shown is not None
                yield shown


def shown_by(entry: MountEntry) -> Shown:
    return Shown(entry.device, entry.root, entry.read_only, entry.fstype not in _SAY_NO_ROOT)


def is_anchor(entry: MountEntry) -> bool:
    return entry.fstype == "tmpfs" and entry.source == ANCHOR_SOURCE


def _anchored(places: Places, table: Iterable[MountEntry]) -> Iterable[str]:
    """Paths that some agent has published at, configured now or not."""
    for entry in mountinfo.below(table, places.root):
        if is_anchor(entry) and entry.mount_point != str(places.root):
            yield str(PurePosixPath(entry.mount_point).relative_to(places.root))


def _at(table: _Table, path: Path) -> Sequence[MountEntry]:
    return table.get(str(path), ())


def _stack(
    entries: Sequence[MountEntry], facts: Facts, path: str, known: Collection[Shown]
) -> Stack:
    anchor = entries[0].mount_id if entries and is_anchor(entries[0]) else None
    above = entries[1:] if anchor is not None else entries
    layers = []
    for height, entry in enumerate(above):
        shown = shown_by(entry)
        # What lies directly on an anchor was put there by an agent; the source of a client's mount
        # is its own affair, so only that of our clients can be relied on.
        ours = (
            shown in known
            or entry.source.startswith(SOURCE_PREFIX)
            or entry.source == facts.sources.get(path)
            or (anchor is not None and height == 0)
        )
        layers.append(Layer(entry.mount_id, shown, ours, f"{entry.fstype} {entry.source!r}"))
    return Stack(path, anchor, tuple(layers), facts.obstacles.get(path))


def _instances(places: Places, facts: Facts, table: _Table) -> Iterable[Instance]:
    """From staging directories, and from clients whose directory is gone already."""
    found: dict[str, Instance] = {}
    for text in facts.staging:
        if (name := StagingName.parse(text)) is not None:
            found[text] = Instance(text, name.name, name.digest, name.number)
    for held in facts.clients:
        text = _staging_of(places, held)
        if (name := StagingName.parse(text)) is not None:
            gone = Instance(text, name.name, name.digest, name.number, present=False)
            client = Client(held.key, held.ended, _end_limit(held))
            found[text] = replace(found.get(text, gone), client=client)
    for text, instance in found.items():
        mounted = _at(table, places.staging / text)
        yield replace(
            instance,
            shown=shown_by(mounted[-1]) if mounted else None,
            mount_id=mounted[-1].mount_id if mounted else None,
            health=facts.health.get(text, Health.UNKNOWN),
            pending=text in facts.pending,
            turned_read_only=bool(mounted) and _turned_read_only(mounted[-1]),
        )


def _turned_read_only(entry: MountEntry) -> bool:
    """A file system that is mounted read-only says so twice, in the options of the mount as well;
    one that the kernel made read-only after errors says it of itself alone.
    """
    return "ro" in entry.super_options and not entry.read_only


def _end_limit(held: HeldClient) -> float | None:
    try:
        return float(held.labels[END_LIMIT_VARIABLE])
    except (KeyError, ValueError):
        return None  # started by an agent that did not say it


def _staging_of(places: Places, held: HeldClient) -> str:
    """The staging directory of a client of ours; empty for others, and for other roots."""
    path = Path(held.labels.get(STAGING_VARIABLE, ""))
    return path.name if path.parent == places.staging else ""
