# SPDX-License-Identifier: Apache-2.0
"""Options that are handed to a client as they are, and the secrets that must not be among them.

Pure. Everybody on the node can read a command line, and so can every pod with the host's pid
namespace: whatever looks like a secret is refused, with the key that takes a file instead. No
message repeats what may be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SECRET = re.compile(
    r"(^|[_.-])(pass|passwd|password2?|passphrase|pw|secret|token|credentials?|pem|authz"
    r"|access[_-]?key(-id)?|api[_-]?key|session[_-]?key|sas[_-]?url|sig|signature)$",
    re.IGNORECASE,
)
#: The name of a key, or of a file that holds one.
_KEY_OR_FILE = re.compile(r"[_.-]key$", re.IGNORECASE)
#: `scheme://user:password@host`, and `https://token@host`.
_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@|https?://[^/@\s]+@", re.IGNORECASE)
#: `user:password@host:/directory`.
_IN_ADDRESS = re.compile(r"[^/@:\s]+:[^/@\s]+@[^/@:\s]+:")
#: Of HTTP.
_HEADER = re.compile(r"\b(authorization|cookie)\s*[:=,]|\bbearer(\s|%20|\+)", re.IGNORECASE)
#: Wherever a word says what a key is: `-o`, a URL's query, rclone's `:backend,key=value:`, a shell.
_ASSIGNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)\s*=\s*[\"']?(/?)")

Value = bool | int | float | str

_INSTEAD = "put it into a file that only root reads"
#: What the agent tells every client.
_AGENTS = {
    **dict.fromkeys(("ro", "rw", "read-only", "read_only"), "write read_only beside driver"),
    **dict.fromkeys(("fsname", "devname"), "leave it out: the agent finds its mounts by it"),
    **dict.fromkeys(("allow_other", "allow-other"), "leave it out: everybody may enter"),
    **dict.fromkeys(("daemon", "foreground"), "leave it out: a client stays in the foreground"),
}


def _plain(options: Mapping[str, Value]) -> Mapping[str, Value]:
    for key, value in options.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the name of an option")
        if _is_secret(key, is_file=str(value).startswith("/")):
            raise ValueError(
                f"{key!r} would show a secret to everybody who lists processes; put it into a file "
                "that only root reads, and name that file under credentials"
            )
        if instead := _AGENTS.get(key):
            raise ValueError(f"{key!r}: {instead}")
        if isinstance(value, str):
            _one_word(key, value)
    return options


def _one_word(key: str, value: str) -> None:
    if problem := _shown(value):
        raise ValueError(f"{key!r} {problem}; put it into a file of credentials")
    if "," in value or not value.isprintable():
        raise ValueError(f"{key!r}: {value!r} has a comma or a control character")


def _is_secret(key: str, *, is_file: bool) -> bool:
    return bool(_SECRET.search(key) or (_KEY_OR_FILE.search(key) and not is_file))


def _shown(word: str) -> str | None:
    """What there is to see in a word that everybody can read; None: nothing."""
    if _IN_URL.search(word):
        return "holds a password in a URL"
    if _HEADER.search(word):
        return "holds a header with a secret"
    for key, slash in _ASSIGNED.findall(word):
        if _is_secret(key, is_file=bool(slash)):
            return f"holds a secret ({key!r})"
    return None


def refuse_secrets(words: Iterable[str]) -> None:
    """Of a whole command line. Raises ValueError."""
    listed = [re.sub(r"^-o(?=\w+=)", "", word) for word in words]
    for word in listed:
        if problem := _shown(word):
            raise ValueError(
                f"a word {problem}, which everybody sees who lists processes; {_INSTEAD}"
            )
    for word, following in pairwise(listed):
        key = word.lstrip("-")
        if key != word and "=" not in key and _is_secret(key, is_file=following.startswith("/")):
            raise ValueError(
                f"{word!r} would show a secret to everybody who lists processes; {_INSTEAD}"
            )


def refuse_secrets_in_environment(values: Mapping[str, str]) -> None:
    """They are seen by whoever may look into the process, and in the configuration: an environment
    names files. Raises ValueError.
    """
    for key, value in values.items():
        if _shown(value) or (_is_secret(key, is_file=False) and "/" not in value):
            raise ValueError(f"{key!r} holds a secret; {_INSTEAD}, and name that file")


def _no_password(source: str) -> str:
    if problem := _shown(source):
        raise ValueError(
            f"it {problem}, which everybody sees who lists processes; put it into a file of "
            "credentials"
        )
    if _IN_ADDRESS.match(source):
        raise ValueError(
            "a password in the source can be read by everybody who lists processes; use credentials"
        )
    if not source or not source.isprintable() or source.startswith("-"):
        raise ValueError(f"{source!r} is not a source")
    return source


def refusing(instead: Mapping[str, str]) -> AfterValidator:
    """Options that a driver writes itself: what the operator would write would count for nothing.
    By name, with what to do instead.
    """

    def check(options: Mapping[str, Value]) -> Mapping[str, Value]:
        for key in options.keys() & instead.keys():
            raise ValueError(f"{key!r}: {instead[key]}")
        return options

    return AfterValidator(check)


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
