# SPDX-License-Identifier: Apache-2.0
"""Whose is the memory of a GPU: real processes in real containers, some of which would rather be
another's, or nobody's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import mountinfo
from agents.hostfs import CONTAINER_GPU_DIR, PROC
from agents.mounts import LinuxMounts
from agents.processes import identify
from agents.standin.pods import Volume
from gpu_plugin.accounting import GpuUse
from gpu_plugin.accounts import Accounts
from gpu_plugin.carriers import Carriers, home_of
from gpu_plugin.identity import Allocations
from tests.fakes.containers import eventually, exists
from tests.fakes.gpu_tenants import (
    GIB,
    HIDE,
    RESOURCE,
    GpuTenants,
    child,
    children,
    in_cgroup_below,
    key_of,
)

MIB = 1 << 20


def pids(uses: tuple[GpuUse, ...]) -> set[int]:
    return {use.process.pid for use in uses}


def test_a_containers_processes_are_summed_and_its_share_is_known(tenants: GpuTenants) -> None:
    script = "for i in 1 2 3; do sleep 1000 & done; wait"
    ada, ben = tenants.tenant(4, "sh", "-c", script), tenants.tenant(8)
    eventually(lambda: len(children(ada.pid)) == 3, "three processes")
    for number, pid in enumerate(children(ada.pid), 1):
        tenants.state.hold(tenants.gpu, pid, number * GIB)
    tenants.state.hold(tenants.gpu, ben.pid, 5 * GIB)
    found = tenants.account()
    first, second = tenants.find(found, ada), tenants.find(found, ben)
    assert (first.used(tenants.gpu), first.request(tenants.gpu)) == (6 * GIB, 4 * GIB)
    assert (second.used(tenants.gpu), second.request(tenants.gpu)) == (5 * GIB, 8 * GIB)
    assert pids(first.uses) == set(children(ada.pid))
    assert {use.command for use in first.uses} == {"sleep"}
    assert first.cgroup == ada.cgroup
    assert first.main == identify(PROC, ada.pid)
    assert [(one.resource, one.units) for one in first.grants] == [(RESOURCE, 4)]
    assert not first.uninvited
    assert found.devices[tenants.gpu].used == 11 * GIB
    assert found.devices[tenants.gpu].unattributed == 0
    assert (found.host, found.unknown, found.doubts) == ((), (), ())


def test_who_hides_in_namespaces_of_his_own_is_still_counted(tenants: GpuTenants) -> None:
    hiding = tenants.tenant(2, "sh", "-c", 'unshare -Urm sh -c "$0" & wait', HIDE)
    hidden = child(hiding.pid, "sleep")
    home = home_of(tenants.allocations.containers)
    names = tenants.allocations.names()
    assert Carriers(PROC, home).carried(hidden, names) == set(), "it shows nothing"
    assert "containers" not in (PROC / f"{hidden}/mountinfo").read_text()
    tenants.state.hold(tenants.gpu, hidden, 7 * GIB)
    found = tenants.find(tenants.account(), hiding)
    assert (found.used(tenants.gpu), found.request(tenants.gpu)) == (7 * GIB, 2 * GIB)
    assert pids(found.uses) == {hidden}


def test_a_forged_path_brings_nothing_of_anothers(tenants: GpuTenants, tmp_path: Path) -> None:
    """His own volume has directories of the same names, and lies where the plugin mounts."""
    victim = tenants.tenant(30)
    (theirs,) = tenants.find(tenants.account(), victim).grants
    forged = tmp_path / "volume/state/gpu/containers" / theirs.allocation
    forged.mkdir(parents=True)
    forger = tenants.start(volumes=[Volume(forged, CONTAINER_GPU_DIR)])
    honest = tenants.start(
        directories=[tenants.allocate(1)], volumes=[Volume(forged, "/run/nodeshare/gpu9")]
    )
    for running in (forger, honest, victim):
        tenants.state.hold(tenants.gpu, running.pid, 3 * GIB)
    found = tenants.account()
    assert tenants.find(found, forger).uninvited
    assert tenants.find(found, forger).grants == ()
    assert tenants.find(found, honest).request(tenants.gpu) == GIB
    assert tenants.find(found, victim).request(tenants.gpu) == 30 * GIB
    assert [tenants.find(found, one).used(tenants.gpu) for one in (forger, honest, victim)] == [
        3 * GIB
    ] * 3
    assert not found.doubts


def test_who_binds_another_ones_path_over_his_own_keeps_his_own(
    tenants: GpuTenants, tmp_path: Path
) -> None:
    """In a mount namespace of his own he may: what he shows there changes nothing."""
    theirs = tenants.allocate(30)
    victim = tenants.start(directories=[theirs])
    forged = tmp_path / "containers" / theirs.name
    forged.mkdir(parents=True)
    bind = f"mount --bind /volume {CONTAINER_GPU_DIR} && exec sleep 1000"
    script = f'unshare -Urm sh -c "{bind}" & wait'
    forger = tenants.start(
        *("sh", "-c", script),
        directories=[tenants.allocate(2)],
        volumes=[Volume(forged, "/volume")],
    )
    forging = child(forger.pid, "sleep")
    tenants.state.hold(tenants.gpu, forging, 4 * GIB)
    found = tenants.account()
    assert tenants.find(found, forger).request(tenants.gpu) == 2 * GIB
    assert tenants.find(found, forger).used(tenants.gpu) == 4 * GIB
    assert tenants.find(found, victim).used(tenants.gpu) == 0


@pytest.fixture
def file_systems(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two, whose paths begin at their own roots."""
    mounts, places = LinuxMounts(), (tmp_path / "first", tmp_path / "second")
    for place in places:
        place.mkdir()
        mounts.mount("nodeshare-test", place, "tmpfs")
    try:
        yield places
    finally:
        for place in places:
            mounts.unmount(place, detach=True)


def test_on_a_file_system_of_its_own_the_same_path_on_another_is_no_proof(
    file_systems: tuple[Path, Path], tenants: GpuTenants
) -> None:
    """The kernel shows the two with the very same root."""
    own, others = file_systems
    tenants.allocations = Allocations(own / "gpu")
    tenants.allocations.prepare()
    tenants.accounts = Accounts(tenants.host, tenants.allocations)
    theirs = tenants.allocate(30)
    victim = tenants.start(directories=[theirs])
    forged = others / theirs.relative_to(own)
    forged.mkdir(parents=True)
    forger = tenants.start(volumes=[Volume(forged, CONTAINER_GPU_DIR)])
    roots = [
        next(e.root for e in mountinfo.read(PROC, one.pid) if e.mount_point == CONTAINER_GPU_DIR)
        for one in (victim, forger)
    ]
    assert roots[0] == roots[1] == f"/gpu/containers/{theirs.name}"
    tenants.state.hold(tenants.gpu, forger.pid, GIB)
    found = tenants.account()
    assert tenants.find(found, victim).request(tenants.gpu) == 30 * GIB
    assert tenants.find(found, forger).uninvited
    assert not found.doubts


def test_two_containers_with_the_same_directory_are_told_apart(tenants: GpuTenants) -> None:
    """Only a volume of the host's own directory can do that; it is named, and brings nothing."""
    directory = tenants.allocate(4)
    first = tenants.start(directories=[directory])
    second = tenants.start(volumes=[Volume(directory, "/mnt", read_only=True)])
    for running in (first, second):
        tenants.state.hold(tenants.gpu, running.pid, GIB)
    found = tenants.account()
    assert tenants.find(found, first).request(tenants.gpu) == 4 * GIB
    assert tenants.find(found, second).uninvited
    (doubt,) = found.doubts
    assert doubt == (
        f"allocation {directory.name} is mounted in 2 containers: it counts for "
        f"{first.start.id[:12]}, and not for {second.start.id[:12]}"
    )


@pytest.mark.parametrize("name", ["docker/{0}", "pod{1}/{0}", "system.slice/docker-{0}.scope"])
def test_a_container_in_a_container_belongs_to_the_outer_one(
    tenants: GpuTenants, name: str
) -> None:
    """Also where the inner one has the id, and the pod, of another container of the node."""
    other, outer = tenants.tenant(30), tenants.tenant(1)
    inner = name.format(other.start.id, other.start.pod_uid)
    with in_cgroup_below(outer, inner) as pid:
        assert inner in (PROC / f"{pid}/cgroup").read_text()
        tenants.state.hold(tenants.gpu, pid, 9 * GIB)
        found = tenants.account()
    assert pids(tenants.find(found, outer).uses) == {pid}
    assert tenants.find(found, other).uses == ()


def test_host_processes_are_counted_as_such(tenants: GpuTenants) -> None:
    tenants.state.hold(tenants.gpu, os.getpid(), 300 * MIB)
    found = tenants.account()
    assert pids(found.host) == {os.getpid()}
    assert found.containers == ()


def test_a_container_without_units_is_uninvited(tenants: GpuTenants) -> None:
    """So is one on a device of which it was given nothing."""
    nothing, elsewhere = tenants.start(), tenants.tenant(4)
    other = tenants.devices[1].uuid
    tenants.state.hold(tenants.gpu, nothing.pid, GIB)
    tenants.state.hold(other, elsewhere.pid, GIB)
    found = tenants.account()
    assert tenants.find(found, nothing).uninvited
    assert tenants.find(found, nothing).key == key_of(nothing)
    assert tenants.find(found, elsewhere).uninvited
    assert tenants.find(found, elsewhere).request(other) == 0


def test_memory_that_is_not_told_is_unknown(tenants: GpuTenants) -> None:
    running = tenants.tenant(4, "sh", "-c", "sleep 1000 & wait")
    tenants.state.hold(tenants.gpu, running.pid, None)
    tenants.state.hold(tenants.gpu, child(running.pid, "sleep"), 2 * GIB)
    found = tenants.account()
    assert tenants.find(found, running).used(tenants.gpu) is None
    assert found.devices[tenants.gpu].unattributed is None


def test_processes_of_a_slice_are_counted_on_the_slice(tenants: GpuTenants) -> None:
    slices = [device.uuid for device in tenants.devices if device.gpu_instance is not None]
    first = tenants.tenant(4, device=slices[0])
    second = tenants.tenant(2, device=slices[1])
    tenants.state.hold(slices[0], first.pid, 3 * GIB)
    tenants.state.hold(slices[1], second.pid, 1 * GIB)
    found = tenants.account()
    assert tenants.find(found, first).used(slices[0]) == 3 * GIB
    assert tenants.find(found, first).used(slices[1]) == 0
    assert tenants.find(found, second).used(slices[1]) == GIB
    assert found.devices.keys() == {device.uuid for device in tenants.devices}


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose first thread ends while another one stays."""
    directory = tmp_path_factory.mktemp("program")
    source, program = directory / "headless.c", directory / "headless"
    source.write_text(
        "#include <pthread.h>\n#include <unistd.h>\n"
        "static void *stay(void *unused) { for (;;) pause(); }\n"
        "int main(void) { pthread_t other; pthread_create(&other, 0, stay, 0); pthread_exit(0); }\n"
    )
    subprocess.run(["gcc", "-pthread", "-o", program, source], check=True, timeout=30)
    return program


def test_a_process_whose_first_thread_ended_stays_its_containers(
    tenants: GpuTenants, headless: Path
) -> None:
    """To procfs such a process has no mounts, and with cgroup v1 the root as its cgroup."""
    running = tenants.start(
        *("sh", "-c", "/program/headless & wait"),
        directories=[tenants.allocate(1)],
        volumes=[Volume(headless.parent, "/program")],
    )
    pid = child(running.pid, "headless")
    eventually(lambda: not exists(pid), "it looks like a zombie")
    tenants.state.hold(tenants.gpu, pid, 5 * GIB)
    assert pids(tenants.find(tenants.account(), running).uses) == {pid}


def test_a_container_of_nothing_else_has_its_share(tenants: GpuTenants, headless: Path) -> None:
    running = tenants.start(
        "/program/headless",
        directories=[tenants.allocate(3)],
        volumes=[Volume(headless.parent, "/program")],
    )
    eventually(lambda: not exists(running.pid), "it looks like a zombie")
    tenants.state.hold(tenants.gpu, running.pid, 5 * GIB)
    found = tenants.find(tenants.account(), running)
    assert (found.used(tenants.gpu), found.request(tenants.gpu)) == (5 * GIB, 3 * GIB)


def test_after_a_restart_all_is_found_again_and_two_agents_agree(tenants: GpuTenants) -> None:
    running = tenants.tenant(4)
    tenants.state.hold(tenants.gpu, running.pid, GIB)
    before = tenants.account()
    tenants.accounts = Accounts(tenants.host, tenants.allocations)
    after = tenants.account()
    assert after.containers == before.containers
    assert after.devices == before.devices


def test_a_container_that_ends_is_forgotten_and_its_directory_is_the_next_ones(
    tenants: GpuTenants,
) -> None:
    """A restarted container has another id, and the same directory."""
    directory, pod_uid = tenants.allocate(4), "8a5a1b1c-52f4-4d2b-9c1e-0123456789ab"
    first = tenants.start(directories=[directory], pod_uid=pod_uid)
    tenants.state.hold(tenants.gpu, first.pid, GIB)
    assert tenants.find(tenants.account(), first).request(tenants.gpu) == 4 * GIB
    tenants.runner.remove(first.start.id)
    second = tenants.start(directories=[directory], pod_uid=pod_uid)
    tenants.state.hold(tenants.gpu, second.pid, 2 * GIB)
    found = tenants.account()
    assert tenants.find(found, second).request(tenants.gpu) == 4 * GIB
    assert [one.key for one in found.containers if one.uses] == [key_of(second)]


def test_many_containers(tenants: GpuTenants, soak: bool) -> None:
    """Processes of 200 containers: made of cgroups and mount namespaces, without their roots."""
    count = 200 if soak else 20
    running = [tenants.tenant(1) for _ in range(count)]
    for number, one in enumerate(running):
        tenants.state.hold(tenants.gpu, one.pid, (number + 1) * MIB)
    found = tenants.account()
    assert len(found.containers) == count
    for number, one in enumerate(running):
        assert tenants.find(found, one).used(tenants.gpu) == (number + 1) * MIB
        assert tenants.find(found, one).request(tenants.gpu) == GIB
