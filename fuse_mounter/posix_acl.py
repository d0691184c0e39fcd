# SPDX-License-Identifier: Apache-2.0
"""POSIX access control lists: from the words of setfacl(1) to what the kernel keeps in an extended
attribute. Pure; the standard library alone, because the process that enters folders imports it.

The attribute (acl(5); include/uapi/linux/posix_acl_xattr.h): a version, then one entry after the
other, tag, permissions and id, all little-endian; the base entries have no id.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

DEFAULT_ATTRIBUTE = "system.posix_acl_default"
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_PERMISSIONS = re.compile(r"(?=.)[r-]?[w-]?[x-]?")


class Tag(enum.IntEnum):
    """Whom an entry is about; the values are the kernel's, and its order."""

    USER_OBJ = 0x01  # the owner
    USER = 0x02
    GROUP_OBJ = 0x04  # the group of the file
    GROUP = 0x08
    MASK = 0x10  # the most that USER, GROUP_OBJ and GROUP get
    OTHER = 0x20


_NAMED = {Tag.USER, Tag.GROUP}
_WORDS = {
    "user": (Tag.USER_OBJ, Tag.USER),
    "group": (Tag.GROUP_OBJ, Tag.GROUP),
    "mask": (Tag.MASK, None),
    "other": (Tag.OTHER, None),
}
_SHORT = {"u": "user", "g": "group", "m": "mask", "o": "other"}


@dataclass(frozen=True, slots=True)
class Entry:
    """`who`: a name or a number as it was written, for USER and GROUP alone; `permissions`: the sum
    of 4 (read), 2 (write), 1 (execute).
    """

    tag: Tag
    permissions: int
    who: str | None = None


def parse(text: str) -> Entry:
    """`user:ada:rwx`, `group::r-x`, `mask::rwx`, `other::---`, with or without `default:` before.

    Raises ValueError with what is wrong.
    """
    words = text.removeprefix("default:").removeprefix("d:").split(":")
    if len(words) == 2 and _SHORT.get(words[0], words[0]) in ("mask", "other"):
        words.insert(1, "")  # setfacl(1) takes `other:r`
    if len(words) != 3 or _SHORT.get(words[0], words[0]) not in _WORDS:
        raise ValueError(
            f"{text!r} is not an entry; write user:NAME:rwx, group:NAME:r-x, user::rwx, group::r-x,"
            " mask::rwx or other::---"
        )
    word, who, permissions = _SHORT.get(words[0], words[0]), words[1].strip(), words[2].strip()
    base, named = _WORDS[word]
    if who and named is None:
        raise ValueError(f"{text!r}: {word!r} takes no name; write {word}::{permissions}")
    if not _PERMISSIONS.fullmatch(permissions):
        raise ValueError(f"{text!r}: {permissions!r} are not permissions; write such as r-x")
    bits = sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in permissions)
    return Entry(named, bits, who) if who and named is not None else Entry(base, bits)


def check(entries: Sequence[Entry]) -> None:
    """Raises ValueError when two entries are about the same."""
    seen = set()
    for entry in entries:
        if (entry.tag, entry.who) in seen:
            whom = entry.tag.name.lower() + (f" {entry.who!r}" if entry.who else "")
            raise ValueError(f"two entries are about {whom}; keep one")
        seen.add((entry.tag, entry.who))


def complete(entries: Iterable[Entry], mode: int) -> list[Entry]:
    """With what setfacl(1) adds: owner, group and others from the mode bits, and the mask, which
    lets through all that is given to named users and to groups.
    """
    by_tag = {entry.tag: entry for entry in entries if entry.tag not in _NAMED}
    named = [entry for entry in entries if entry.tag in _NAMED]
    for tag, shift in ((Tag.USER_OBJ, 6), (Tag.GROUP_OBJ, 3), (Tag.OTHER, 0)):
        by_tag.setdefault(tag, Entry(tag, mode >> shift & 7))
    if named and Tag.MASK not in by_tag:
        bits = by_tag[Tag.GROUP_OBJ].permissions
        for entry in named:
            bits |= entry.permissions
        by_tag[Tag.MASK] = Entry(Tag.MASK, bits)
    return [*by_tag.values(), *named]


def encode(entries: Iterable[Entry], number_of: Callable[[Tag, str], int]) -> bytes:
    """The value of the attribute. `number_of` tells the id of a name; what it raises goes on."""
    rows = sorted(
        (entry.tag, _NO_ID if entry.who is None else number_of(entry.tag, entry.who), entry)
        for entry in entries
    )
    body = (_ENTRY.pack(tag, entry.permissions, number) for tag, number, entry in rows)
    return _HEADER.pack(_VERSION) + b"".join(body)
