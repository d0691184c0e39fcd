# SPDX-License-Identifier: Apache-2.0
"""What a command found out: lines for people, and the same as JSON. A value; knows no agent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """`lines` and `document` (ready for JSON) say the same."""

    lines: Sequence[str]
    document: Mapping[str, Any]

    def text(self, *, as_json: bool) -> str:
        """In the form that was asked for."""
        return json.dumps(self.document, indent=2) if as_json else "\n".join(self.lines)
