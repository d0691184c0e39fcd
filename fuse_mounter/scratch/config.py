# SPDX-License-Identifier: Apache-2.0
"""The list `fuse_mounter.scratch`: where files may go, when, and how much at a time.

Checks what can be known without looking at a file system; what the clocks of one are worth is in
`clocks`.
"""

from __future__ import annotations

import enum
import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from agents.config import Duration, HostPath, Section, Size, parse_size, shown

_PERCENT = re.compile(r"(\d{1,2}(?:\.\d{1,3})?)%")
_KEEP = "never"
_LONGEST_NAME = 200
#: Keys of a rule. What was announced by others, or "only counted", is no warning for these.
_DECIDING = frozenset(
    {"older_than", "clock", "sizes", "paths", "keep_file", "grace", "users", "notice_file", "armed"}
)


class Clock(enum.Enum):
    """Which time of a file says when it was last of use.

    `used`: the later of its last access and its last modification. `modified`: modification alone;
    what was unpacked or copied with its old times then counts as old. `changed`: the later of
    modification and change of status, so that what was copied, renamed or given away just now is
    new.
    """

    USED = "used"
    MODIFIED = "modified"
    CHANGED = "changed"


def _pattern(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value:
        raise ValueError(
            f"{value!r} is not a pattern below the directory; write such as 'ada/*.h5'"
        )
    return str(path)


def _folder(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value:
        raise ValueError(f"{value!r} is not a folder in the directory; write such as 'data/tmp'")
    return str(path)


def _target(value: object) -> object:
    """A size, or a share of the file system as a number between 0 and 1."""
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        return float(match[1]) / 100
    if isinstance(value, str) and "%" in value:
        raise ValueError(f"{shown(value)} is not a share below 100 %, such as 10%")
    return parse_size(value)


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("0 would remove everything at once; write a duration such as 30d")
    return value


def _age(value: object) -> object:
    if value == _KEEP:
        return None
    return value


Age = Annotated[Duration, AfterValidator(_positive)]
Pattern = Annotated[str, AfterValidator(_pattern)]


class SizeClass(Section):
    """Files of at least this size go earlier (or later) than others."""

    at_least: Size
    older_than: Age


class PathRule(Section):
    """Files whose path matches go at another age; `older_than: never` keeps them for ever.

    `path` is relative to the directory, in the manner of a shell: `*` and `?` stand for what is
    between two slashes, `**` for any number of folders. A folder that matches counts with all in
    it. The first rule that matches decides.
    """

    path: Pattern
    older_than: Annotated[Age | None, BeforeValidator(_age)]


class KeepFree(Section):
    """When less is free than `target` (a size, or a share such as 10%), the files that were of no
    use for longest go first, until as much is free; none that was of use within `not_within`.
    """

    target: Annotated[int | float, BeforeValidator(_target)]
    not_within: Age


class ScratchRule(Section):
    """One directory that is kept clean. `mount` is one of `mounts`, by name, or `directory` a place
    of this node; `folder` a folder in it.

    `users`: each folder directly below is somebody's own, and gets the notice. `armed: false`
    counts and reports, and removes nothing.
    """

    mount: str | None = None
    directory: HostPath | None = None
    folder: Annotated[str, AfterValidator(_folder)] | None = None
    #: What the mount table must have there, such as nfs4: where it is another one, the mount that
    #: should be there is not, and nothing is touched. None: whatever it is.
    file_system: str | None = None
    older_than: Age
    clock: Clock = Clock.USED
    sizes: tuple[SizeClass, ...] = ()
    paths: tuple[PathRule, ...] = ()
    #: A file of this name keeps the folder in which it lies, with all in it. None: no such file.
    keep_file: str | None = ".keep-scratch"
    keep_free: KeepFree | None = None
    #: For how long a file is announced before it goes. 0: not at all.
    grace: Duration = 7 * 86400.0
    users: bool = True
    #: The notice in each user's folder. None: no notice, the lists of the node alone.
    notice_file: str | None = "FILES-THAT-WILL-BE-REMOVED.txt"
    every: Age = 86400.0
    #: Empty folders go when they are as old as a file would have to be.
    empty_folders: bool = True
    most_files: Annotated[int, Field(ge=1)] = 1_000_000
    most_bytes: Size | None = None
    #: Removals in a second at most, for the server's sake.
    rate: Annotated[int, Field(ge=1)] = 2_000
    armed: bool = False

    @property
    def name(self) -> str:
        """As metrics and commands have it."""
        place = self.mount if self.mount is not None else str(self.directory)
        return place if self.folder is None else f"{place.rstrip('/')}/{self.folder}"

    @property
    def longest_pause(self) -> float:
        """Seconds without a run after which whoever was told is told anew."""
        return 3 * self.every + min(self.grace, 86400.0)

    @property
    def digest(self) -> str:
        """Changes with what decides which files go: then they are announced anew."""
        text = self.model_dump_json(include=set(_DECIDING))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @field_validator("keep_file", "notice_file")
    @classmethod
    def _one_name(cls, value: str | None) -> str | None:
        if value is not None and (value in ("", ".", "..") or "/" in value or "\0" in value):
            raise ValueError(f"{value!r} is not the name of a file; write it without a folder")
        if value is not None and len(value.encode(errors="replace")) > _LONGEST_NAME:
            raise ValueError(f"it has more than {_LONGEST_NAME} bytes; choose a shorter name")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ScratchRule:
        if (self.mount is None) is (self.directory is None):
            raise ValueError("name one of mount and directory: what is to be kept clean")
        if self.directory is not None and len(self.directory.parts) < 3:
            raise ValueError(
                f"directory: {str(self.directory)!r} is too close to the root of the node; "
                "use a folder"
            )
        return self
