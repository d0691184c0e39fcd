# SPDX-License-Identifier: Apache-2.0
"""One container and what it has of ours, and what to say of that. Pure.

Everything that people read about pods and mounts is worded here: one sentence for each volume, with
what it sees now, whether the next recovery reaches it, and what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.processes import ProcessKey
from agents.tables import Table, text
from fuse_mounter.bindings import Binding, Bound, Link, Sight, View
from fuse_mounter.observed import Health

_ENDPOINT = "'Transport endpoint is not connected'"


@dataclass(frozen=True, slots=True)
class Attached:
    """A container (or another process with a mount namespace of its own) that has bound the root or
    something in it. `pod` is `namespace/name`; None: no runtime told. `health` by place, of what it
    sees where that is not what the node shows; `healing` by place: how an attempt to heal it ended.
    """

    process: ProcessKey
    namespace: int
    command: str
    pod: str | None
    container: str | None
    bindings: tuple[Binding, ...]
    health: Mapping[str, Health] = field(default_factory=dict)
    healing: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        if self.pod is None:
            return f"process {self.process.pid} ({self.command})"
        return f"pod {self.pod}, container {self.container}"

    def views(self) -> Iterable[View]:
        return (view for binding in self.bindings for view in binding.views)

    def to_json(self, root: Path) -> dict[str, Any]:
        """For the status document."""
        return {
            "pod": self.pod,
            "container": self.container,
            "pid": self.process.pid,
            "volumes": [
                {
                    "place": _printable(binding.place),
                    "shows": _printable(binding.what),
                    "bound": binding.bound.value,
                    "propagation": binding.link.value,
                    "read_only": binding.read_only,
                    "recovers": recovers(binding),
                    "text": sentence(self, binding, root),
                    "mounts": [
                        {
                            "mount": view.exposed.mount,
                            "path": view.exposed.path,
                            "place": _printable(view.place),
                            "sees": view.sight.value,
                            "recovers": view.follows,
                        }
                        for view in binding.views
                    ],
                }
                for binding in self.bindings
            ],
        }


def _printable(path: str) -> str:
    """A container may call its places anything: nothing that a terminal would obey is shown."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in path
    )


def recovers(binding: Binding) -> bool:
    """Whether the next recovery of every mount reaches it."""
    return all(view.follows for view in binding.views)


def sentence(attached: Attached, binding: Binding, root: Path) -> str:
    """What this container bound, what it sees now, what will become of it, and what to do."""
    parts = [
        *_seen(attached, binding),
        *_prospect(binding),
        *(said for view in binding.views if (said := attached.healing.get(view.place))),
        *_advice(binding, root),
    ]
    said = "; ".join(parts or ["recoveries reach it"])
    return f"{attached.name} bound {_bound(binding, root)} (at {binding.place!r}): {said}"


def _bound(binding: Binding, root: Path) -> str:
    if binding.bound is Bound.PARENT:
        what = repr(str(root / binding.what))
        without = binding.link is Link.NONE and not recovers(binding)
        return f"{what} without HostToContainer" if without else what
    view = binding.views[0]
    folder = f"the folder {view.folder!r} in " if view.folder else ""
    itself = "" if view.folder else " itself"
    return f"{folder}{str(root / view.exposed.path)!r}{itself}, not its parent"


def _seen(attached: Attached, binding: Binding) -> Iterator[str]:
    lost = [view for view in binding.views if view.sight is Sight.LOST]
    dead = [view for view in lost if attached.health.get(view.place) is Health.DEAD]
    served = [view for view in lost if attached.health.get(view.place) is Health.OK]
    other = [view for view in lost if view not in dead and view not in served]
    missing = [view for view in binding.views if view.sight is Sight.MISSING]
    covered = [view for view in binding.views if view.sight is Sight.COVERED]
    for views, words in (
        (dead, f"it sees {_ENDPOINT} in {{}}, until it is started again"),
        (served, "it still uses the client of {} that was replaced"),
        (other, "what it sees of {} was replaced"),
        (missing, "it sees nothing in {}, where the node has a mount"),
        (covered, "something else is mounted over {} in it"),
    ):
        if views:
            yield words.format(_paths(views))


def _prospect(binding: Binding) -> Iterator[str]:
    """Of what is as it should be as yet."""
    views = [view for view in binding.views if not view.follows and view.sight is Sight.CURRENT]
    clients = [view for view in views if view.exposed.by_client]
    others = [view for view in views if not view.exposed.by_client]
    if clients:
        yield f"after the next recovery of {_paths(clients)} it will see {_ENDPOINT}"
    if others:
        yield f"when {_paths(others)} is mounted anew it will keep the old mount"


def _advice(binding: Binding, root: Path) -> Iterator[str]:
    if not recovers(binding):
        if binding.bound is Bound.MOUNT_POINT:
            yield f"bind {str(root)!r} with mountPropagation: HostToContainer instead"
        elif binding.link is Link.NONE:
            yield "set mountPropagation: HostToContainer"
        else:
            yield "what lies below was not bound with it: start it again"
    if binding.read_only and binding.bound is Bound.PARENT:
        yield "its readOnly does not hold for what is mounted below: publish a read_only name"


def _paths(views: Sequence[View]) -> str:
    return ", ".join(repr(view.exposed.path) for view in views)


_COLUMNS = ("pod", "container", "volume", "shows", "bound", "propagation", "recovers", "sees")


def tables(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """All containers of a status document for people, and a sentence for each that has trouble."""
    lines = [_row(one, volume) for one in rows for volume in one["volumes"]]
    texts = [volume["text"] for one in rows for volume in one["volumes"] if _troubled(volume)]
    if not lines:
        return (Table("Pods", _COLUMNS, (), "no pod has bound a mount"),)
    return (Table("Pods", _COLUMNS, lines, "\n".join(texts or ["recoveries reach all of them"])),)


def troubled(rows: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """Those with trouble alone; nothing when there are none."""
    found = [(one, volume) for one in rows for volume in one["volumes"] if _troubled(volume)]
    lines = [_row(one, volume) for one, volume in found]
    title = "Pods that recoveries do not reach"
    return (Table(title, _COLUMNS, lines, "more: nodeshare mounts pods"),) if lines else ()


def _troubled(volume: Mapping[str, Any]) -> bool:
    seen = {mount["sees"] for mount in volume["mounts"]}
    return not volume["recovers"] or bool(seen - {Sight.CURRENT.value, Sight.EMPTY.value})


def _row(one: Mapping[str, Any], volume: Mapping[str, Any]) -> list[str]:
    sees = sorted({mount["sees"] for mount in volume["mounts"]})
    return [
        one["pod"] or f"process {one['pid']}",
        text(one["container"]),
        volume["place"],
        volume["shows"] or "the root",
        volume["bound"],
        volume["propagation"],
        text(volume["recovers"]),
        text(", ".join(sees)),
    ]
