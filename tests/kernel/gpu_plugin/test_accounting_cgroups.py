# SPDX-License-Identifier: Apache-2.0
"""Whose a process is on the cgroups of this machine, whichever version it has: for the guest, too,
whose are pure v2.
"""

from __future__ import annotations

from agents.hostfs import PROC
from tests.fakes.gpu_tenants import GIB, HIDE, GpuTenants, child, in_cgroup_below


def test_hidden_nested_and_first_process_are_one_container(
    tenants_without_library: GpuTenants,
) -> None:
    tenants = tenants_without_library
    other = tenants.tenant(30)
    ada = tenants.tenant(4, "sh", "-c", 'unshare -Urm sh -c "$0" & wait', HIDE)
    hidden = child(ada.pid, "sleep")
    with in_cgroup_below(ada, f"pod{other.start.pod_uid}/{other.start.id}") as nested:
        assert other.start.id in (PROC / f"{nested}/cgroup").read_text()
        for pid in (ada.pid, hidden, nested):
            tenants.state.hold(tenants.gpu, pid, GIB)
        accounting = tenants.account()
    found = tenants.find(accounting, ada)
    assert {use.process.pid for use in found.uses} == {ada.pid, hidden, nested}
    assert (found.used(tenants.gpu), found.request(tenants.gpu)) == (3 * GIB, 4 * GIB)
    assert found.cgroup == ada.cgroup
    assert tenants.find(accounting, other).uses == ()
    assert (accounting.host, accounting.unknown) == ((), ())
