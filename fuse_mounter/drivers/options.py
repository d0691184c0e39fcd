# SPDX-License-Identifier: Apache-2.0
"""Options that are handed to a client as they are, and the secrets that must not be among them.

Pure. Everybody on the node can read a command line, and so can every pod with the host's pid
namespace: whatever looks like a secret is refused, with the key that takes a file instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECRET = re.compile(
    r"(^|[_.-])(pass|passwd|password|passphrase|pw|secret|token|credentials?|access[_-]?key(-id)?"
    r"|api[_-]?key|session[_-]?key)$",
    re.IGNORECASE,
)
#: `scheme://user:password@host`.
_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")

Value = bool | int | float | str


def _plain(options: Mapping[str, Value]) -> Mapping[str, Value]:
    for key, value in options.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the name of an option")
        if _SECRET.search(key):
            raise ValueError(
                f"{key!r} would show a secret to everybody who lists processes; put it into a file "
                "that only root reads, and name that file under credentials"
            )
        if isinstance(value, str):
            _one_word(key, value)
    return options


def _one_word(key: str, value: str) -> None:
    if _IN_URL.search(value):
        raise ValueError(f"{key!r} holds a password in a URL; put it into a file of credentials")
    if "," in value or not value.isprintable():
        raise ValueError(f"{key!r}: {value!r} has a comma or a control character")


def refuse_secrets(words: Iterable[str]) -> None:
    """Of a whole command line. Raises ValueError."""
    for word in words:
        if _IN_URL.search(word):
            raise ValueError("a word holds a password in a URL; put it into a file")
        for part in word.lstrip("-").split(","):
            key, equals, _ = part.partition("=")
            if equals and _SECRET.search(key):
                raise ValueError(
                    f"{key!r} would show a secret to everybody who lists processes; put it into a "
                    "file that only root reads"
                )


def _no_password(source: str) -> str:
    if not source or not source.isprintable() or source.startswith("-"):
        raise ValueError(f"{source!r} is not a source")
    if _IN_URL.search(source):
        raise ValueError("a password in the source can be read by everybody who lists processes")
    return source


#: By name; true is an option without a value, false leaves it out.
Options = Annotated[dict[str, Value], AfterValidator(_plain)]
#: What is mounted, in the client's own words.
Source = Annotated[str, AfterValidator(_no_password)]


def mount_options(options: Mapping[str, Value]) -> str:
    """For `-o`: `a,b=1`."""
    return ",".join(_words(options))


def flags(options: Mapping[str, Value]) -> list[str]:
    """For clients that take `--a --b=1`."""
    return [f"--{word}" for word in _words(options)]


def _words(options: Mapping[str, Value]) -> Iterator[str]:
    for key, value in options.items():
        if value is True:
            yield key
        elif value is not False:
            yield f"{key}={value}"
