# SPDX-License-Identifier: Apache-2.0
"""Containers as processes: namespaces, privileges, limits, and how they end."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.errors import AgentError
from agents.hostfs import PROC, HostFs
from agents.standin.cgroup_tree import CgroupTree, hierarchies
from agents.standin.confinement import KEPT_CAPABILITIES
from agents.standin.pods import RunningContainer
from agents.standin.runtime import ContainerRunner
from tests.fakes.containers import container, eventually, exists, kill

Start = Callable[..., RunningContainer]


def output(runner: ContainerRunner, running: RunningContainer, *command: str) -> str:
    """What a command in the container writes; it must succeed."""
    result = runner.exec(running.start.id, command, timeout_s=10)
    assert result.ok, result
    return result.output.strip()


def status(pid: int | str, field: str) -> str:
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{field}:")).partition(":")[2].strip()


def exit_code(runner: ContainerRunner, running: RunningContainer) -> int | None:
    """The exit code, once the container has ended."""

    def code() -> int | None:
        found = {one.start.id: one.exit_code for one in runner.containers()}
        return found[running.start.id]

    eventually(lambda: code() is not None, "container ended")
    return code()


def test_it_has_namespaces_of_its_own(start: Start) -> None:
    pid = start().pid
    for kind in ("mnt", "pid", "uts", "ipc", "cgroup"):
        assert (PROC / f"{pid}/ns/{kind}").readlink() != (PROC / f"self/ns/{kind}").readlink(), kind
    for kind in ("net", "user"):
        assert (PROC / f"{pid}/ns/{kind}").readlink() == (PROC / f"self/ns/{kind}").readlink(), kind


def test_the_pid_is_the_hosts_and_inside_it_is_one(start: Start) -> None:
    running = start("sleep", "4321")
    assert (PROC / f"{running.pid}/cmdline").read_bytes() == b"sleep\x004321\x00"
    assert status(running.pid, "NSpid").split() == [str(running.pid), "1"]


def test_inside_it_sees_itself_alone(start: Start, runner: ContainerRunner) -> None:
    running = start("sleep", "4321")
    assert output(runner, running, "hostname") == "notebook-1"
    assert output(runner, running, "cat", "/proc/1/cmdline") == "sleep\x004321\x00"
    lines = output(runner, running, "cat", "/proc/self/cgroup").splitlines()
    assert {line.rpartition(":")[2] for line in lines} == {"/"}, "its cgroup is its root"
    assert output(runner, running, "sh", "-c", "ls /proc | grep -c '^[0-9]'") in ("3", "4")


def test_no_descriptor_of_the_runner_comes_along(start: Start) -> None:
    running = start()
    assert sorted(os.listdir(PROC / f"{running.pid}/fd")) == ["0", "1", "2"]


def test_its_root_has_the_capabilities_of_a_containers_root(
    start: Start, runner: ContainerRunner
) -> None:
    running = start()
    kept = sum(1 << number for number in KEPT_CAPABILITIES)
    in_exec = output(runner, running, "cat", "/proc/self/status")
    for field in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status(running.pid, field), 16) == kept, field
        assert f"{field}:\t{kept:016x}" in in_exec, field
    assert status(running.pid, "NoNewPrivs") == "1"
    for refused in ("mknod /tmp/disk b 254 0", "unshare -m true", "mount -t tmpfs none /tmp"):
        result = runner.exec(running.start.id, ["sh", "-c", refused], timeout_s=10)
        assert not result.ok, refused


def test_the_environment_is_what_was_given(
    start: Start, runner: ContainerRunner, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "1")
    running = start(env={"FROM_PLUGIN": "8", "BOTH": "plugin"})
    spec_wins = container("sleep", "1000", env={"BOTH": "plugin"})
    assert _environ(running.pid) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "HOSTNAME": "notebook-1",
        "FROM_PLUGIN": "8",
        "BOTH": "plugin",
        "NODESHARE_RUN_DIR": str(directory),
    }
    assert spec_wins.env["BOTH"] == "plugin"
    assert "FROM_PLUGIN=8" in output(runner, running, "env").splitlines()


def _environ(pid: int) -> dict[str, str]:
    raw = (PROC / f"{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in raw)


def test_its_cgroup_is_where_a_kubelet_would_put_it(start: Start, cgroup_parent: str) -> None:
    running = start(cpu_millis=500)
    uid, id_ = running.start.pod_uid, running.start.id
    assert running.cgroup == f"/{cgroup_parent}/kubepods/burstable/pod{uid}/{id_}"
    lines = (PROC / f"{running.pid}/cgroup").read_text().splitlines()
    assert {line.rpartition(":")[2] for line in lines} == {running.cgroup}, "in every hierarchy"


def test_its_shim_is_not_in_its_cgroup(start: Start) -> None:
    running = start()
    shim = status(running.pid, "PPid")
    assert running.cgroup not in (PROC / shim / "cgroup").read_text()


def test_limits_are_set_in_the_kernel(start: Start, runner: ContainerRunner, host: HostFs) -> None:
    running = start(cpu_millis=1500, memory_bytes=64 << 20, cpuset="0")
    found = _limits(host, running)
    expected = {"cpu": 1.5, "memory": 64 << 20, "cpuset": "0"}
    assert found == {k: v for k, v in expected.items() if k not in runner.missing_controllers}
    assert output(runner, running, "cat", "/proc/self/cgroup")
    if "cpuset" in found:
        assert output(runner, running, "nproc") == "1"


def test_the_memory_limit_holds(runner: ContainerRunner, start: Start) -> None:
    if "memory" in runner.missing_controllers:
        pytest.skip("no memory controller")
    running = start("sh", "-c", "exec tail /dev/zero", memory_bytes=32 << 20)
    assert exit_code(runner, running) == 137


def test_limits_can_be_changed_while_it_runs(
    start: Start, runner: ContainerRunner, host: HostFs
) -> None:
    running = start(cpu_millis=1000, memory_bytes=64 << 20)
    for cpu, memory in ((2000, 128 << 20), (500, 48 << 20)):
        changed = runner.update_limits(running.start.id, cpu_millis=cpu, memory_bytes=memory)
        assert (changed.start.spec.cpu_millis, changed.start.spec.memory_bytes) == (cpu, memory)
        found = _limits(host, running)
        if "cpu" in found:
            assert found["cpu"] == cpu / 1000
        if "memory" in found:
            assert found["memory"] == memory
    last = runner.update_limits(running.start.id, cpu_millis=700)
    assert last.start.spec.memory_bytes == 48 << 20, "what is not named stays"


def _limits(host: HostFs, running: RunningContainer) -> dict[str, object]:
    """The limits that stand in the cgroup files, of v1 or v2."""
    found: dict[str, object] = {}
    for root in hierarchies(host.cgroup):
        directory = root / running.cgroup.lstrip("/")
        values = {
            name: (directory / name).read_text().strip()
            for name in os.listdir(directory)
            if name in _LIMIT_FILES
        }
        if quota := values.get("cpu.cfs_quota_us"):
            found["cpu"] = int(quota) / int(values["cpu.cfs_period_us"])
        if both := values.get("cpu.max"):
            quota, period = both.split()
            found["cpu"] = int(quota) / int(period)
        if memory := values.get("memory.limit_in_bytes", values.get("memory.max")):
            found["memory"] = int(memory)
            assert values.get("memory.memsw.limit_in_bytes", memory) == memory, "no swap"
            assert values.get("memory.swap.max", "0") == "0", "no swap"
        if cpus := values.get("cpuset.cpus"):
            found["cpuset"] = cpus
    return found


_LIMIT_FILES = {
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.max",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max",
    "memory.swap.max",
    "cpuset.cpus",
}


@pytest.mark.parametrize(
    ("command", "expected"),
    [("exit 0", 0), ("exit 3", 3), ("kill -s KILL $$; exit 5", 5)],
    ids=["success", "failure", "its own first process cannot be killed from inside"],
)
def test_its_exit_code_is_the_commands(
    start: Start, runner: ContainerRunner, command: str, expected: int
) -> None:
    assert exit_code(runner, start("sh", "-c", command)) == expected


def test_a_kill_from_outside_is_137(start: Start, runner: ContainerRunner) -> None:
    running = start()
    kill(running.pid)
    assert exit_code(runner, running) == 137


def test_a_shim_that_dies_takes_its_container_along(start: Start, runner: ContainerRunner) -> None:
    running = start()
    kill(int(status(running.pid, "PPid")))
    assert exit_code(runner, running) == 137
    eventually(lambda: not exists(running.pid), "first process ended")


def test_its_output_is_kept(start: Start, runner: ContainerRunner) -> None:
    running = start("sh", "-c", "echo out; echo err >&2")
    assert exit_code(runner, running) == 0
    assert runner.log(running.start.id) == "out\nerr\n"


def test_stop_lets_it_end_by_itself(start: Start, runner: ContainerRunner) -> None:
    running = start("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    eventually(lambda: "ready" in runner.log(running.start.id), "trap set")
    runner.stop(running.start.id, grace_s=10)
    assert exit_code(runner, running) == 7
    runner.stop(running.start.id)  # once more is no error


def test_stop_kills_what_ignores_it(start: Start, runner: ContainerRunner) -> None:
    running = start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    eventually(lambda: "ready" in runner.log(running.start.id), "trap set")
    runner.stop(running.start.id, grace_s=0.1)
    assert exit_code(runner, running) == 137
    assert not exists(running.pid)


def test_stop_ends_all_it_started(
    start: Start, runner: ContainerRunner, cgroup_parent: str, host: HostFs
) -> None:
    running = start("sh", "-c", "for i in 1 2 3; do setsid sleep 1000 & done; wait")
    tree = CgroupTree(host, cgroup_parent)
    eventually(lambda: len(tree.processes(running.cgroup)) == 4, "children started")
    members = tree.processes(running.cgroup)
    runner.stop(running.start.id)
    assert not tree.processes(running.cgroup)
    assert not [pid for pid in members if exists(pid)]


def test_one_that_keeps_forking_is_ended(
    start: Start, runner: ContainerRunner, cgroup_parent: str, host: HostFs
) -> None:
    """Twenty processes that each fork without pause: a list of pids is old when it is read."""
    fork = "f() { while :; do (:) & (:) & wait; done; }"
    running = start("sh", "-c", f"{fork}; for i in $(seq 20); do f & done; sleep 1000")
    tree = CgroupTree(host, cgroup_parent)
    eventually(lambda: len(tree.processes(running.cgroup)) > 20, "it forks")
    began = time.monotonic()
    runner.stop(running.start.id)
    assert time.monotonic() - began < 5
    assert not tree.processes(running.cgroup)
    assert not exists(running.pid)


def test_a_cgroup_whose_processes_keep_forking_is_emptied(
    cgroup_parent: str, host: HostFs, tmp_path: Path
) -> None:
    """The same without a pid namespace to end with its first process, as clean-up meets it."""
    tree = CgroupTree(host, cgroup_parent)
    tree.create(tree.parent)
    fork = "f() { while :; do (:) & (:) & wait; done; }"
    joins = " ".join(f"echo $$ > {one}/cgroup.procs;" for one in tree.directories(tree.parent))
    shell = f"{joins} {fork}; for i in 1 2 3 4 5 6; do f & done; wait"
    with subprocess.Popen(["sh", "-c", shell], start_new_session=True) as child:
        try:
            eventually(lambda: len(tree.processes(tree.parent)) > 6, "it forks")
        finally:
            killed, left = tree.kill(tree.parent, timeout_s=10)
            assert tree.remove(tree.parent) == ()
    assert not left
    assert child.pid in killed


def test_exec_reports_code_and_output(start: Start, runner: ContainerRunner) -> None:
    id_ = start().start.id
    result = runner.exec(id_, ["sh", "-c", "echo a; echo b >&2; exit 4"], timeout_s=10)
    assert (result.code, result.output, result.timed_out) == (4, "a\nb\n", False)
    missing = runner.exec(id_, ["nope"], timeout_s=10)
    assert missing.code == 127
    assert 'exec: "nope": executable file not found in $PATH' in missing.output
    assert runner.exec(id_, ["/etc/passwd"], timeout_s=10).code == 126
    assert runner.exec(id_, ["sh", "-c", "kill -9 $$"], timeout_s=10).code == 137


def test_exec_is_bounded(start: Start, runner: ContainerRunner) -> None:
    running = start()
    result = runner.exec(running.start.id, ["sh", "-c", "echo a; exec sleep 77"], timeout_s=1)
    assert result.timed_out
    assert result.output == "a\n"
    eventually(lambda: "77" not in output(runner, running, "ps", "ax"), "command ended")


def test_exec_runs_in_the_containers_cgroup(
    start: Start, runner: ContainerRunner, cgroup_parent: str, host: HostFs
) -> None:
    running = start()
    tree = CgroupTree(host, cgroup_parent)
    worker = threading.Thread(
        target=runner.exec, args=(running.start.id, ["sleep", "3"]), kwargs={"timeout_s": 10}
    )
    worker.start()
    eventually(lambda: len(tree.processes(running.cgroup)) == 2, "exec is in the cgroup")
    worker.join()


def test_exec_needs_a_running_container(start: Start, runner: ContainerRunner) -> None:
    running = start("true")
    exit_code(runner, running)
    for id_ in (running.start.id, "0" * 64):
        with pytest.raises(AgentError, match="does not run"):
            runner.exec(id_, ["true"], timeout_s=5)


def test_an_environment_too_long_looks_like_an_error_of_the_program(
    start: Start, runner: ContainerRunner
) -> None:
    running = start("/bin/sh", "-c", "true", env={"IDS": "x" * (128 << 10)})
    assert exit_code(runner, running) == 1
    assert runner.log(running.start.id) == "exec /bin/sh: argument list too long\n"
