# SPDX-License-Identifier: Apache-2.0
"""What the injector leaves alone, and what it believes: by mountinfo alone, nothing is mounted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo
from agents.cgroup_formats import CgroupPaths
from agents.containers import Container, Pod
from agents.hostfs import HostFs
from agents.mounts import MountFeatures
from agents.namespaces import NoAnswer
from agents.processes import ProcessKey
from lxcfs_helper.inject import Injector, Outcome, Result, Step, Wish, next_step
from lxcfs_helper.selection import Located

PID = os.getpid()
ID = "0123456789abcdef" * 4
MEMINFO = Path("/proc/meminfo")
ROOT = "20 1 0:20 / / ro - overlay overlay rw"
PROC = "21 20 0:21 / /proc rw - proc proc rw"
VIEW = "30 21 0:50 /id/meminfo /proc/meminfo ro - tmpfs nodeshare-views:/views rw"
OVER_PROC = "40 21 0:60 / /proc rw - {kind} over rw"

SHOWN = Wish(MEMINFO, Path("/views/id/meminfo"), "nodeshare-views:/views", (0, 50), "/id/meminfo")
AWAY = Wish(MEMINFO, None, "nodeshare-views:/views", (0, 50), "/id/meminfo")


@pytest.mark.parametrize(
    ("lines", "shown", "hidden"),
    [
        pytest.param([ROOT, PROC], Step.ATTACH, Step.NOTHING, id="nothing there"),
        pytest.param([ROOT, PROC, VIEW], Step.NOTHING, Step.DETACH, id="shown"),
        pytest.param([ROOT], Step.FOREIGN, Step.NOTHING, id="no proc at all"),
        pytest.param(
            [ROOT, PROC, VIEW, OVER_PROC.format(kind="proc")],
            Step.ATTACH,
            Step.NOTHING,
            id="another proc hides it",
        ),
        pytest.param(
            [ROOT, PROC, VIEW, OVER_PROC.format(kind="fuse.trap")],
            Step.FOREIGN,
            Step.FOREIGN,
            id="something that may never answer hides it",
        ),
        pytest.param(
            [ROOT, PROC, OVER_PROC.format(kind="tmpfs")],
            Step.FOREIGN,
            Step.NOTHING,
            id="something that may lead anywhere",
        ),
    ],
)
def test_the_next_step_by_all_mounts(lines: list[str], shown: Step, hidden: Step) -> None:
    entries = mountinfo.parse("\n".join(lines))
    assert next_step(entries, SHOWN) is shown
    assert next_step(entries, AWAY) is hidden


class Kernel:
    """Mounts, namespaces and cgroups of one container, whose mount table is a file."""

    def __init__(self, proc: Path) -> None:
        self.calls: list[str] = []
        self.answers = True
        self._proc = proc
        for pid in ("self", "1", str(PID)):
            (proc / pid / "ns").mkdir(parents=True)
            (proc / pid / "ns/mnt").touch()
            (proc / pid / "mountinfo").write_text("1 0 0:1 / / rw shared:7 - ext4 disk rw\n")
        (proc / str(PID) / "stat").write_text(f"{PID} (x) S{' 0' * 18} 77 0 0\n")
        self.table(ROOT, PROC)

    def table(self, *lines: str) -> None:
        (self._proc / str(PID) / "mountinfo").write_text("\n".join(lines) + "\n")

    def features(self) -> MountFeatures:
        return MountFeatures(open_tree=True, mount_setattr=True, beneath=True)

    def clone(self, path: Path, *, recursive: bool = False) -> int:
        return os.open(os.devnull, os.O_RDONLY)

    def set_attributes(self, *_: object, **__: object) -> None:
        pass

    def attach(self, pidfd: int, mount: int, target: Path, *, beneath: bool = False) -> None:
        self.calls.append("attach")
        if not self.answers:
            raise NoAnswer("the mount namespace did not answer in time")
        self.table(ROOT, PROC, VIEW)

    def attach_all(self, pidfd: int, mounts: Mapping[Path, int]) -> None:
        self.calls.append(f"attach {len(mounts)}")
        if not self.answers:
            raise NoAnswer("the mount namespace did not answer in time")
        self.table(ROOT, PROC, VIEW)  # one of them can not be

    def paths(self, pid: int) -> CgroupPaths:
        return CgroupPaths(f"/pods/{ID}", {})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def injector(kernel: Kernel, tmp_path: Path, clock: Clock) -> Injector:
    seam: Any = kernel
    return Injector(HostFs(proc=tmp_path), seam, seam, seam, clock)


LOCATED = Located(
    Container(ID, "main", Pod("one", "jupyter", "uid"), PID),
    ProcessKey(PID, 77),
    CgroupPaths(f"/pods/{ID}", {}),
)


def test_who_did_not_answer_is_left_alone_for_longer_and_longer(
    kernel: Kernel, injector: Injector, clock: Clock
) -> None:
    kernel.answers = False
    tried = []
    for second in range(0, 700, 10):
        clock.now = 100.0 + second
        before = len(kernel.calls)
        result = injector.reconcile(LOCATED, [SHOWN])[MEMINFO]
        assert result.outcome is Outcome.FAILED
        assert "did not answer" in result.reason
        if len(kernel.calls) > before:
            tried.append(second)
    assert tried == [0, 30, 90, 210, 450]
    kernel.answers = True
    clock.now += 1000
    assert injector.reconcile(LOCATED, [SHOWN])[MEMINFO].outcome is Outcome.SHOWN
    assert injector.stands(LOCATED, [SHOWN])


def test_one_target_without_an_answer_is_enough(kernel: Kernel, injector: Injector) -> None:
    kernel.answers = False
    stat = Wish(Path("/proc/stat"), SHOWN.source, SHOWN.owner, SHOWN.device, "/id/stat")
    results = injector.reconcile(LOCATED, [SHOWN, stat])
    assert {result.outcome for result in results.values()} == {Outcome.FAILED}
    assert kernel.calls == ["attach 2"]


def test_several_are_attached_in_one_go_and_what_is_left_alone(
    kernel: Kernel, injector: Injector
) -> None:
    stat = Wish(Path("/proc/stat"), SHOWN.source, SHOWN.owner, SHOWN.device, "/id/stat")
    results = injector.reconcile(LOCATED, [SHOWN, stat])
    assert results[MEMINFO] == Result(Outcome.SHOWN, (Step.ATTACH,))
    assert results[stat.target].outcome is Outcome.FAILED
    assert kernel.calls[:2] == ["attach 2", "attach"]


def test_what_is_shared_with_the_host_is_left_alone(kernel: Kernel, injector: Injector) -> None:
    kernel.table(ROOT, PROC.replace("rw - proc", "rw shared:7 - proc"))
    result = injector.reconcile(LOCATED, [SHOWN])[MEMINFO]
    assert (result.outcome, kernel.calls) == (Outcome.FAILED, [])
    assert "shared with the host" in result.reason
    kernel.table(ROOT, PROC.replace("rw - proc", "rw shared:8 - proc"))
    assert injector.reconcile(LOCATED, [SHOWN])[MEMINFO].outcome is Outcome.SHOWN


def test_what_was_undone_meanwhile_is_not_believed(kernel: Kernel, injector: Injector) -> None:
    stat = Wish(Path("/proc/stat"), None, SHOWN.owner, SHOWN.device, "/id/stat")
    verify = injector._verify  # the moment between the work and what is remembered of it

    def undo(located: Located, wanted: tuple[Wish, ...]) -> None:
        kernel.table(ROOT, PROC)
        verify(located, wanted)

    injector._verify = undo  # type: ignore[method-assign]  # see above
    assert injector.reconcile(LOCATED, [SHOWN, stat])[MEMINFO].outcome is Outcome.SHOWN
    assert not injector.stands(LOCATED, [SHOWN, stat])
    injector._verify = verify  # type: ignore[method-assign]  # see above
    injector.reconcile(LOCATED, [SHOWN, stat])
    assert kernel.calls == ["attach", "attach"]
    assert injector.stands(LOCATED, [SHOWN, stat])
