# SPDX-License-Identifier: Apache-2.0
"""`nodeshare_mount_credential_…`. No user's name is a label, and no user's id unless it is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fuse_mounter.credentials.status import CredentialsStatus


def collect(prefix: str, status: CredentialsStatus, *, per_user: bool) -> Iterable[Metric]:
    """All families; `prefix` is such as `nodeshare_mount`."""
    name = f"{prefix}_credential"
    users = _gauge(f"{name}_users", "Users who have a token of this class, or shall have one.")
    login = _gauge(f"{name}_login_needed_users", "Users who have to log in again to get one.")
    earliest = _gauge(
        f"{name}_earliest_expiry_timestamp_seconds",
        "When the first token of this class ends (seconds of the epoch).",
    )
    rotation = _gauge(
        f"{name}_rotation_seconds", "From asking for the last new token until it lay in its file."
    )
    readable = _gauge(f"{name}_source_up", "1 while the source of this class can be read.")
    renewals = CounterMetricFamily(
        f"{name}_renewals", "Tokens asked for, by what came of it.", labels=["token", "result"]
    )
    uses = CounterMetricFamily(
        f"{name}_proofs",
        "New tokens that were tried, by what came of it.",
        labels=["token", "result"],
    )
    unwritten = _gauge(
        f"{name}_without_token_users", "Users who shall have a token of this class, and have none."
    )
    for one in status.tokens:
        users.add_metric([one.name], len(one.users))
        unwritten.add_metric([one.name], sum(not user.has_token for user in one.users))
        login.add_metric([one.name], sum(user.login_needed for user in one.users))
        ends = [user.expires for user in one.users if user.expires is not None]
        if ends:
            earliest.add_metric([one.name], min(ends))
        if one.rotation_s is not None:
            rotation.add_metric([one.name], one.rotation_s)
        readable.add_metric([one.name], float(one.source_up))
        for result, count in one.renewals.items():
            renewals.add_metric([one.name, result], count)
        for result, count in one.uses.items():
            uses.add_metric([one.name, result], count)
    yield from (users, login, earliest, unwritten, rotation, readable, renewals, uses)
    yield GaugeMetricFamily(
        f"{name}_keytab_problems",
        "Keytabs that are missing, or cannot be kept.",
        value=len(status.keytabs),
    )
    if per_user:
        yield _by_user(name, status)


def _by_user(name: str, status: CredentialsStatus) -> Metric:
    family = GaugeMetricFamily(
        f"{name}_user_expiry_timestamp_seconds",
        "When this user's token ends (seconds of the epoch).",
        labels=["token", "uid"],
    )
    for one in status.tokens:
        for user in one.users:
            if user.expires is not None:
                family.add_metric([one.name, str(user.uid)], user.expires)
    return family


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["token"])
