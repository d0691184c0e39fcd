# SPDX-License-Identifier: Apache-2.0
"""An entry of `publish`: another name for a mount or for a folder in it, and what that folder shall
be like. Configuration; pure.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pydantic import field_validator, model_validator

from agents.config import Section, shown
from fuse_mounter import posix_acl

_MODE = re.compile(r"0?[0-7]{3,4}")
_NAME_OR_NUMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*\$?")
_MOST_ID = 0xFFFFFFFE


def below(value: str, what: str, example: str) -> str:
    """A relative path that stays where it is; raises ValueError."""
    path = PurePosixPath(value)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value:
        raise ValueError(f"{value!r} is not a path below {what}; write such as {example!r}")
    return str(path)


class SharedFolder(Section):
    """`path` is where pods see it, below the root; `folder` what they see, below the top of the
    mount (left out: all of it). What is left out of `owner`, `group`, `mode` and `default_acl` is
    nobody's affair here; the rest is set, and set again when somebody changes it.
    """

    path: str
    folder: str = ""
    #: Pods cannot write through this name, whatever they and their users are allowed.
    read_only: bool = False
    #: A name or a number.
    owner: str | int | None = None
    group: str | int | None = None
    #: Octal and quoted, such as "2770".
    mode: str | None = None
    #: What new files and folders in it get, in the words of setfacl(1); an empty list: none.
    default_acl: tuple[str, ...] | None = None
    #: Make the folder when it is missing.
    create: bool = False

    @field_validator("path")
    @classmethod
    def _below_the_root(cls, value: str) -> str:
        return below(value, "the root", "shared/public")

    @field_validator("folder")
    @classmethod
    def _below_the_mount(cls, value: str) -> str:
        return value and below(value, "the top of the mount", "public")

    @field_validator("owner", "group", mode="before")
    @classmethod
    def _somebody(cls, value: object) -> object:
        number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ID
        name = isinstance(value, str) and _NAME_OR_NUMBER.fullmatch(value)
        if value is None or number or name:
            return value
        raise ValueError(f"{shown(value)} is neither a name nor an id; write such as root or 1000")

    @field_validator("mode", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and _MODE.fullmatch(value)):
            return value
        raise ValueError(f'{shown(value)} is not a mode; write it octal and quoted, such as "2770"')

    @field_validator("default_acl")
    @classmethod
    def _entries(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        posix_acl.check([posix_acl.parse(text) for text in value or ()])
        return value

    @model_validator(mode="after")
    def _makes_its_own_folder(self) -> SharedFolder:
        if self.create and not self.folder:
            raise ValueError("create needs a folder: the top of a mount is there already")
        return self

    @property
    def kept(self) -> bool:
        """Whether there is anything to look after, besides its being shown."""
        return any(v is not None for v in (self.owner, self.group, self.mode, self.default_acl))

    @property
    def changes(self) -> bool:
        """Whether something may be written through the mount."""
        return self.create or self.kept

    @property
    def mode_bits(self) -> int | None:
        return None if self.mode is None else int(self.mode, 8)

    @property
    def acl(self) -> tuple[posix_acl.Entry, ...] | None:
        if self.default_acl is None:
            return None
        return tuple(posix_acl.parse(text) for text in self.default_acl)
