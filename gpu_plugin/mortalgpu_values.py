# SPDX-License-Identifier: Apache-2.0
"""The values of a MortalGPU or MetaGPU chart as a tree that knows what was read of it. Pure; knows
no rule of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from agents.config import shown
from agents.errors import ConfigError


class Values:
    """A tree of values that remembers what was looked at."""

    def __init__(self, tree: Mapping[str, Any], path: str = "") -> None:
        self._tree, self.path = tree, path
        self._read: dict[str, Values | None] = {}

    def take(self, key: str, default: Any = None) -> Any:
        """A leaf, or a list; None counts as not written."""
        self._read[key] = None
        value = self._tree.get(key)
        return default if value is None else value

    def below(self, key: str) -> Values:
        """A branch; an empty one where nothing is written. Raises ConfigError for a leaf."""
        value = self._tree.get(key)
        path = self.place(key)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{path}: {shown(value)} is not a section with keys")
        branch = self._read.get(key) or Values(value or {}, path)
        self._read[key] = branch
        return branch

    def place(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def unread(self) -> list[str]:
        """Paths of everything that nobody looked at."""
        found: list[str] = []
        for key in self._tree:
            if key not in self._read:
                found.append(self.place(str(key)))
            elif (branch := self._read[key]) is not None:
                found += branch.unread()
        return found


def decode(text: str, name: str) -> Values:
    """The values, also those of a subchart. Raises ConfigError."""
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Without the line itself, which may hold a token.
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{name}: not valid YAML: line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: no keys in it", remedy="name the values.yaml of the chart")
    for chart in ("mortalgpu", "metagpu"):
        if isinstance(tree.get(chart), dict) and "config" not in tree:
            return Values(tree[chart], chart)
    return Values(tree)


def section_of(values: Values) -> Values:
    """Where the plugin's own keys are: below `config` in a chart's values, or at the root of the
    plugin's own file.
    """
    return values if values.take("deviceSharing") else values.below("config")
