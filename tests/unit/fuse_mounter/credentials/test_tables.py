# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fuse_mounter.credentials.keeper import TokenStatus, UserToken
from fuse_mounter.credentials.status import CredentialsStatus
from fuse_mounter.credentials.tables import token_table


def user(uid: int, expires: float | None, *, login: bool, problem: str | None = None) -> UserToken:
    return UserToken(uid, not login, expires, login, problem)


def test_who_must_log_in_again_is_named() -> None:
    users = (user(1000, 2e9, login=False), user(1001, 1e9, login=True, problem="it was refused"))
    status = CredentialsStatus((TokenStatus("eos", users),), keytabs=("keytab '/k' is missing",))
    shown = token_table(status.to_json())
    assert shown is not None
    ((name, count, first, login, problem),) = shown.rows
    assert (name, count, login, problem) == ("eos", "2", "1001", "it was refused")
    assert first.startswith("2001-09-0")
    assert shown.note == "keytab '/k' is missing"


def test_nothing_configured_is_nothing_to_show() -> None:
    assert token_table(CredentialsStatus().to_json()) is None
    assert token_table({}) is None
