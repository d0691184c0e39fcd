# SPDX-License-Identifier: Apache-2.0
"""Who holds a Lease, against an API server that refuses what another has changed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from agents import kube, lease
from agents.errors import AgentError, Unavailable
from agents.kube import Conflict
from tests.fakes.api_server import ApiServer

NOW = 2e9


class FakeLeases:
    """With optimistic concurrency, as the API server has it."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self._versions = itertools.count(1)
        self.broken = False

    def lease(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        if self.broken:
            raise Unavailable("no answer")
        return self.kept.get((namespace, name))

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.broken:
            raise Unavailable("no answer")
        version = lease["metadata"].get("resourceVersion")
        before = self.kept.get((namespace, name))
        if version != (None if before is None else before["metadata"]["resourceVersion"]):
            raise Conflict("the object has been modified")
        meta = {**lease["metadata"], "resourceVersion": str(next(self._versions))}
        self.kept[namespace, name] = {**lease, "metadata": meta}
        return self.kept[namespace, name]

    def holder(self) -> str | None:
        ((spec,),) = [[one["spec"] for one in self.kept.values()]]
        holder = spec.get("holderIdentity")
        return None if holder is None else str(holder)


@pytest.fixture
def leases() -> FakeLeases:
    return FakeLeases()


@pytest.fixture(autouse=True)
def namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "nodeshare")


def test_one_at_a_time_and_then_the_next(leases: FakeLeases) -> None:
    with lease.held(leases, "x", "a", lambda: NOW):
        assert leases.holder() == "a"
        ((where, document),) = leases.kept.items()
        assert where == ("nodeshare", "x")
        assert document["spec"]["renewTime"] == "2033-05-18T03:33:20.000000Z"
        with ExitStack() as stack, pytest.raises(AgentError, match="a holds the lease nodeshare/x"):
            stack.enter_context(lease.held(leases, "x", "b", lambda: NOW + 60))
    assert leases.holder() is None
    with lease.held(leases, "x", "b", lambda: NOW):
        assert leases.holder() == "b"


def test_who_does_not_renew_has_lost_it(
    leases: FakeLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_RENEW_S", 0.0)
    with lease.held(leases, "x", "a", lambda: NOW) as renew:
        renew()
        with lease.held(leases, "x", "b", lambda: NOW + lease.DURATION_S):
            with pytest.raises(AgentError, match="another node holds the lease"):
                renew()
            assert leases.holder() == "b"
    assert leases.holder() is None


def test_ones_own_of_before_is_taken_at_once(leases: FakeLeases) -> None:
    leases.put_lease(
        "nodeshare",
        "x",
        {"metadata": {}, "spec": {"holderIdentity": "a", "renewTime": "2033-05-18T03:33:20Z"}},
    )
    with lease.held(leases, "x", "a", lambda: NOW + 1):
        pass


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": "b"}, None])
def test_a_lease_that_says_nothing_is_nobodys(leases: FakeLeases, spec: Any) -> None:
    leases.put_lease("nodeshare", "x", {"metadata": {}, "spec": spec})
    with lease.held(leases, "x", "a", lambda: NOW):
        assert leases.holder() == "a"


def test_without_an_answer_nobody_has_it(leases: FakeLeases) -> None:
    leases.broken = True
    with ExitStack() as stack, pytest.raises(Unavailable, match="no answer"):
        stack.enter_context(lease.held(leases, "x", "a"))
    leases.broken = False
    with lease.held(leases, "x", "a"):
        leases.broken = True  # giving back fails: it ends by itself
    assert leases.holder() == "a"


def test_over_https(tmp_path: Path) -> None:
    """By the client that agents use."""
    with (
        ApiServer() as server,
        closing(kube.connect(server.kubeconfig(tmp_path / "config"))) as first,
        closing(kube.connect(tmp_path / "config")) as second,
    ):
        with lease.held(first, "x", "a"):
            assert server.leases["nodeshare", "x"]["spec"]["holderIdentity"] == "a"
            with ExitStack() as stack, pytest.raises(AgentError, match="a holds the lease"):
                stack.enter_context(lease.held(second, "x", "b"))
        with lease.held(second, "x", "b"):
            assert server.leases["nodeshare", "x"]["spec"]["holderIdentity"] == "b"
        server.faults.append(403)
        with ExitStack() as stack, pytest.raises(Unavailable, match="update of leases"):
            stack.enter_context(lease.held(first, "x", "a"))
