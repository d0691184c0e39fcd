# SPDX-License-Identifier: Apache-2.0
"""The agent's status document of credentials for people. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agents.tables import Table, text

_COLUMNS = ("token", "users", "first ends", "must log in again", "problem")


def token_table(document: Mapping[str, Any]) -> Table | None:
    """One row a class of tokens; None: nothing is configured."""
    tokens = document.get("tokens", ())
    problems = [document.get("problem"), *document.get("keytab_problems", ())]
    note = "\n".join(str(problem) for problem in problems if problem)
    if not tokens and not note:
        return None
    return Table("Tokens", _COLUMNS, [_row(one) for one in tokens], note)


def _row(one: Mapping[str, Any]) -> list[str]:
    users = one["users"]
    ends = [user["expires"] for user in users if user["expires"] is not None]
    first = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(ends))) if ends else None
    login = [str(user["uid"]) for user in users if user["login_needed"]]
    problems = [one["problem"], *(user["problem"] for user in users)]
    return [
        one["name"],
        str(len(users)),
        text(first),
        text(", ".join(login) or None),
        text(next((problem for problem in problems if problem), None)),
    ]
