# SPDX-License-Identifier: Apache-2.0
"""Settings from YAML, taken apart with every mistake told at once. Pure; knows no setting.

A mistake names the place, what stands there and what to write; the rest is read all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B?)?", re.ASCII)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def size_text(size: int, space: str = "") -> str:
    """Exact, with the largest unit that is: `12GiB`, `1536MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        whole, rest = divmod(size, 1024 ** _POWERS[unit[0]])
        if whole and not rest:
            return f"{whole}{space}{unit}"
    return f"{size}{space}B"


class SettingsError(ValueError):
    """The settings are wrong; the text has one line for each mistake."""


class Reader:
    """One mapping of the settings; `mistakes` is shared by all of one document."""

    def __init__(self, found: Any, place: str, mistakes: list[str]) -> None:
        self.place, self.mistakes = place, mistakes
        self._left: dict[Any, Any] = {}
        if isinstance(found, Mapping):
            self._left = dict(found)
        elif found is not None:
            self.wrong("", found, "write a mapping of keys and values")

    def wrong(self, key: str, found: object, remedy: str) -> None:
        """Note a mistake."""
        place = ".".join(part for part in (self.place, key) if part)
        shown = repr(found)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
        self.mistakes.append(f"{place or 'nodeshare'}: {shown}: {remedy}")

    def done(self) -> None:
        """Whatever nobody has asked for is a mistake."""
        for key, value in self._left.items():
            self.wrong(str(key), value, "there is no such key; is it written correctly?")
        self._left = {}

    def take(self, key: str, default: Any = None) -> Any:
        """As it stands there; None there is as if it were not."""
        found = self._left.pop(key, None)
        return default if found is None else found

    def __contains__(self, key: str) -> bool:
        return self._left.get(key) is not None

    def child(self, key: str) -> Reader | None:
        """A mapping below; None: it is not there."""
        found = self.take(key)
        return None if found is None else Reader(found, self._below(key), self.mistakes)

    def children(self, key: str) -> list[Reader]:
        """A list of mappings."""
        found = self.take(key, [])
        if not isinstance(found, Sequence) or isinstance(found, str):
            self.wrong(key, found, "write a list")
            return []
        place = self._below(key)
        return [Reader(one, f"{place}.{i}", self.mistakes) for i, one in enumerate(found)]

    def text(self, key: str, default: str = "", *, pattern: str = r"(?s).+", remedy: str) -> str:
        """A string that matches."""
        found = self.take(key)
        if found is None:
            if not default:
                self.wrong(key, found, remedy)
            return default
        if not isinstance(found, str) or not re.fullmatch(pattern, found):
            self.wrong(key, found, remedy)
            return default
        return found

    def number(self, key: str, *, least: float, most: float) -> float | None:
        """None: it is not there."""
        found = self.take(key)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.wrong(key, found, "write a number")
        elif not least <= found <= most:
            self.wrong(key, found, f"write a number from {least:g} to {most:g}")
        else:
            return float(found)
        return None

    def flag(self, key: str, default: bool = False) -> bool:
        """`default`: it is not there."""
        found = self.take(key, default)
        if not isinstance(found, bool):
            self.wrong(key, found, "write true or false")
        return found is True

    def mappings(self, key: str) -> tuple[Mapping[str, Any], ...]:
        """A list of mappings that are handed on as they are."""
        found = self.take(key, [])
        entries = found if isinstance(found, list | tuple) else [None]
        if not all(isinstance(one, Mapping) for one in entries):
            self.wrong(key, found, "write a list of mappings")
            return ()
        return tuple(entries)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.take(key, [])
        if not isinstance(found, Sequence) or isinstance(found, str):
            self.wrong(key, found, "write a list of strings")
            return ()
        for one in found:
            if not isinstance(one, str) or not one:
                self.wrong(key, one, "write a string that is not empty; put quotes around numbers")
        return tuple(one for one in found if isinstance(one, str) and one)

    def pairs(self, key: str) -> dict[str, str]:
        """A mapping of strings to strings."""
        found = self.take(key, {})
        if not isinstance(found, Mapping):
            self.wrong(key, found, "write a mapping")
            return {}
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, str):
                self.wrong(f"{key}.{name}", value, "write a string; put quotes around it")
        return {n: v for n, v in found.items() if isinstance(n, str) and isinstance(v, str)}

    def size(self, key: str) -> int | None:
        """Bytes; None: it is not there."""
        found = self.take(key)
        if found is None:
            return None
        match = _SIZE.fullmatch(found) if isinstance(found, str) else None
        if match is None or not match[2] or not match[2].endswith("iB") or not float(match[1]):
            self.wrong(key, found, "write a size such as 512MiB or 1GiB")
            return None
        return int(float(match[1]) * 1024 ** _POWERS[match[2][0]])

    def _below(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key
