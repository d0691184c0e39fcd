# SPDX-License-Identifier: Apache-2.0
"""What is told of credentials: who has which token, and for how long; never what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fuse_mounter.credentials.keeper import TokenStatus, UserToken


@dataclass(frozen=True, slots=True)
class CredentialsStatus:
    """For people and metrics. `keytabs`: what is wrong with them. `problem`: why no token can be
    written at all.
    """

    tokens: tuple[TokenStatus, ...] = ()
    keytabs: tuple[str, ...] = ()
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "problem": self.problem,
            "keytab_problems": list(self.keytabs),
            "tokens": [
                {
                    "name": one.name,
                    "problem": one.problem,
                    "users": [_user(user) for user in one.users],
                }
                for one in self.tokens
            ],
        }


def _user(user: UserToken) -> dict[str, Any]:
    use = None
    if user.use is not None:
        use = {
            "result": user.use.result.value,
            "identity": user.use.identity,
            "reason": user.use.reason,
        }
    return {
        "uid": user.uid,
        "expires": user.expires,
        "login_needed": user.login_needed,
        "problem": user.problem,
        "use": use,
    }
