# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agents.processes import ProcessKey
from gpu_plugin import enforcement
from gpu_plugin.accounting import Accounting, GpuContainer, GpuUse
from gpu_plugin.enforcement import State, decide
from gpu_plugin.enforcement_cases import Place
from gpu_plugin.enforcement_config import EnforcementConfig
from gpu_plugin.limits import NOTHING
from gpu_plugin.verdicts import Act, Action, Backend, Limits, Standing, Verdict
from tests.fakes.gpu_scans import FIRST, SECOND, container, grant, scan, use

GIB = 1 << 30
TOTAL = 32 * GIB


class Scene:
    """Scans of the first device, one after the other; `config` as the configuration has it."""

    def __init__(self, **config: Any) -> None:
        self.config = EnforcementConfig.model_validate(config)
        self.state = State()
        self.now = 1000.0
        self.limits: dict[str, Limits] = {}
        self.backends: Mapping[Place, Backend] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.short: frozenset[str] = frozenset()

    def see(self, *containers: GpuContainer, after: float = 1.0, **fields: Any) -> list[str]:
        """Acts of this scan as words, such as `terminate ada 3 over_limit`."""
        self.now += after
        held = sum(one.used(FIRST) or 0 for one in containers)
        found = scan(*containers, at=self.now, free=TOTAL - held)
        return [_words(act) for act in self.decide(replace(found, **fields))]

    def standing(self, name: str) -> Standing:
        return self.verdicts[name].standing

    def decide(self, accounting: Accounting, *, late: float = 0.0) -> tuple[Act, ...]:
        decision = decide(
            self.state,
            accounting,
            {one.key: self._limits(one) for one in accounting.containers},
            self.config,
            now=accounting.at + late,
            backends=self.backends,
        )
        if decision is None:
            return ()
        self.state, self.short = decision.state, decision.short
        for verdict in decision.verdicts:
            self.verdicts[_name(verdict.container.container_id)] = verdict
        return decision.acts

    def _limits(self, found: GpuContainer) -> dict[str, Limits]:
        of_uses = {use.device: NOTHING for use in found.uses}
        name = _name(found.key.container_id)
        return of_uses | {
            grant.device: self.limits.get(name, limit(found.request(grant.device) // GIB))
            for grant in found.grants
        }


def limit(request: int, most: int | None = None, guarantee: int | None = None) -> Limits:
    return Limits(
        request * GIB,
        (request if most is None else most) * GIB,
        (request if guarantee is None else guarantee) * GIB,
        "the test",
    )


def _name(container_id: str) -> str:
    return container_id.rstrip("0")


def _words(act: Act) -> str:
    name = _name(act.container.container_id)
    pid = "" if act.process is None else f" {act.process.pid}"
    return f"{act.action.value} {name}{pid} {act.reason.value}"


def pod(
    name: str, units: int, *held: float | None, first: int = 1, device: str = FIRST
) -> GpuContainer:
    """Processes `first`, `first` + 1, ... hold so many GiB each."""
    uses = [
        use(first + number, None if size is None else int(size * GIB))
        for number, size in enumerate(held)
    ]
    return container(name, *([grant(f"of-{name}", units)] if units else []), *uses)


def test_over_the_limit_warn_grace_sigterm_sigkill() -> None:
    scene = Scene()
    greedy = pod("ada", 4, *[1] * 8)
    assert scene.see(greedy) == ["warn ada over_limit"]
    assert scene.standing("ada") is Standing.WARNED
    assert scene.verdicts["ada"].grace_left_s == 10
    for _ in range(9):
        assert scene.see(greedy) == []
    newest = [f"terminate ada {pid} over_limit" for pid in (8, 7, 6, 5)]
    assert scene.see(greedy) == newest
    assert scene.standing("ada") is Standing.TERMINATING
    assert scene.see(greedy, after=4.9) == []
    assert scene.see(greedy, after=0.1) == [text.replace("terminate", "kill") for text in newest]
    assert scene.see(greedy) == [], "once is enough"
    assert scene.see(pod("ada", 4, *[1] * 4)) == []
    assert scene.standing("ada") is Standing.BELOW


def test_the_first_act_tells_since_when() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    scene.see(pod("ada", 4, 1), after=0.0)
    acts = scene.decide(scan(pod("ada", 4, 3, 3, 3), at=1001.0))
    assert [act.since for act in acts] == [1000.0, None]
    assert [(act.used, act.allowed) for act in acts] == [(9 * GIB, 4 * GIB)] * 2


def test_who_comes_back_within_the_grace_is_spared() -> None:
    scene = Scene()
    scene.see(pod("ada", 4, 5))
    assert scene.see(pod("ada", 4, 4)) == []
    assert scene.standing("ada") is Standing.BELOW
    for _ in range(9):
        assert scene.see(pod("ada", 4, 4)) == []
    assert scene.see(pod("ada", 4, 4)) == ["spare ada over_limit"]
    assert scene.state.cases == {}
    assert scene.see(pod("ada", 4, 5)) == ["warn ada over_limit"], "forgotten"


def test_hopping_over_the_limit_and_back_wins_no_second_grace() -> None:
    scene = Scene()
    acts = [text for _ in range(11) for size in (5, 5, 3) for text in scene.see(pod("a", 4, size))]
    assert acts[:2] == ["warn a over_limit", "terminate a 1 over_limit"]


def test_only_as_many_as_are_needed_when_some_end_by_themselves() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    assert len(scene.see(pod("ada", 4, *[1] * 8))) == 4
    assert scene.see(pod("ada", 4, *[1] * 5)) == []
    assert scene.see(pod("ada", 4, 0, *[1] * 4)) == ["spare ada 5 over_limit"]


def test_more_memory_while_processes_end_costs_further_ones() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    assert scene.see(pod("ada", 4, 2, 2, 2)) == ["terminate ada 3 over_limit"]
    assert scene.see(pod("ada", 4, 2, 2, 2, 3)) == ["terminate ada 4 over_limit"]


def test_who_has_too_much_of_two_devices_is_asked_once() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    both = container(
        "ada",
        *(grant("ada", 4, device) for device in (FIRST, SECOND)),
        *(use(1, 5 * GIB, device) for device in (FIRST, SECOND)),
    )
    assert scene.see(both) == ["terminate ada 1 over_limit"]
    assert scene.see(both, after=5.0) == ["kill ada 1 over_limit"]
    assert scene.standing("ada") is not Standing.BELOW


def test_the_first_process_is_the_last_to_go() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    notebook = replace(pod("ada", 4, 3, 3), main=ProcessKey(1, 7))
    assert scene.see(notebook) == ["terminate ada 2 over_limit"]
    alone = replace(pod("eve", 4, 9, 1, first=10), main=ProcessKey(10, 7))
    assert scene.see(alone) == ["terminate eve 10 over_limit"]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        pytest.param([None], [], id="nothing is known"),
        pytest.param([3, None], [], id="what is known is within the limit"),
        pytest.param([3, None, 2], ["terminate ada 3 over_limit"], id="what is known is too much"),
        pytest.param([33], [], id="more than the device has cannot be"),
        pytest.param([0, 0], [], id="nothing is held"),
    ],
)
def test_what_is_unknown_is_no_reason(held: list[float | None], words: list[str]) -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    assert scene.see(pod("ada", 4, *held)) == words
    verdict = scene.verdicts["ada"]
    if None in held:
        assert verdict.used is None
        assert verdict.standing is (Standing.TERMINATING if words else Standing.UNKNOWN)
    if 33 in held:
        assert verdict.standing is Standing.UNKNOWN
        assert "33GiB of 32GiB" in (verdict.note or "")


def test_together_more_than_there_is_cannot_be() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    ada, bob = pod("ada", 4, 17), pod("bob", 16, 16, first=9)
    assert scene.see(ada, bob, devices=devices(free=0)) == []
    assert {scene.standing("ada"), scene.standing("bob")} == {Standing.UNKNOWN}
    assert "containers hold 33GiB of 32GiB" in (scene.verdicts["bob"].note or "")
    assert scene.see(pod("ada", 4, 16), bob) == ["terminate ada 1 over_limit"]


def test_an_answer_that_the_driver_gave_long_ago_is_no_ground() -> None:
    """The agent was stopped before it got to work with it, or the driver took so long."""
    scene = Scene(grace="0s", pressure_grace="0s")
    old = {uuid: replace(one, age_s=60.0) for uuid, one in scan().devices.items()}
    assert scene.see(pod("ada", 4, 9), devices=old) == []
    assert "60 s" in (scene.verdicts["ada"].note or "")
    assert scene.see(pod("ada", 4, 9)) == ["terminate ada 1 over_limit"]


def test_unknown_memory_makes_no_pressure() -> None:
    """A neighbour of whom it is not known what he holds may hold all that he is guaranteed."""
    scene = Scene()
    scene.limits = {"ada": limit(8, 32)}
    greedy, quiet = pod("ada", 8, 24), pod("bob", 8, None, first=9)
    assert scene.see(greedy, quiet, devices=devices(free=0)) == []
    known = pod("bob", 8, 1, first=9)
    assert scene.see(greedy, known, devices=devices(free=0)) == ["terminate ada 1 pressure"]


def devices(free: int | None) -> dict[str, Any]:
    found = scan(free=0).devices
    return {uuid: replace(one, free=free) for uuid, one in found.items()}


def test_a_device_that_does_not_answer_is_left_alone() -> None:
    scene = Scene()
    greedy = pod("ada", 4, 9)
    scene.see(greedy)
    for _ in range(20):
        assert scene.see(replace(greedy, uses=()), devices={}) == []
    assert scene.see(greedy) == [], "nobody saw it over its limit meanwhile"


def test_a_scan_that_is_old_or_earlier_says_nothing() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    scene.see(pod("ada", 4, 1))
    over = scan(pod("ada", 4, 9), at=scene.now)
    assert scene.decide(replace(over, at=scene.now + 1), late=3.1) == ()
    assert scene.decide(replace(over, at=scene.now - 0.5)) == ()
    assert len(scene.decide(replace(over, at=scene.now + 1))) == 1


def test_a_gap_without_looks_takes_nobodys_grace_away() -> None:
    scene = Scene()
    scene.see(pod("ada", 4, 9))
    assert scene.see(pod("ada", 4, 9), after=3600.0) == []
    assert scene.verdicts["ada"].grace_left_s == 10 - enforcement.stale_after_s(scene.config)


def test_a_container_that_was_started_anew_begins_anew() -> None:
    scene = Scene()
    scene.see(pod("ada", 4, 9))
    scene.see(pod("ada", 4, 9), after=9.0)
    assert scene.see(pod("ada2", 4, 9, first=5)) == ["warn ada2 over_limit"]
    assert [_name(place[0].container_id) for place in scene.state.cases] == ["ada2"]


def test_a_pid_that_another_process_has_now_is_another_process() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    scene.see(pod("ada", 4, 9))
    other = GpuUse(ProcessKey(1, 99), FIRST, 9 * GIB, use(1, 1).kind)
    assert scene.see(replace(pod("ada", 4), uses=(other,)), after=9.0) == [
        "terminate ada 1 over_limit"
    ]


def test_an_agent_that_was_killed_in_between_begins_anew() -> None:
    scene = Scene()
    for _ in range(11):
        acts = scene.see(pod("ada", 4, 9))
    assert acts == ["terminate ada 1 over_limit"]
    scene.state = State()
    again = [text for _ in range(17) for text in scene.see(pod("ada", 4, 9))]
    assert again == ["warn ada over_limit", "terminate ada 1 over_limit", "kill ada 1 over_limit"]


class TestBurst:
    def scene(self, **config: Any) -> Scene:
        scene = Scene(**config)
        scene.limits = {name: limit(8, 32) for name in ("ada", "bob", "eve")}
        return scene

    def test_above_the_request_is_fine_while_there_is_room(self) -> None:
        scene = self.scene()
        for _ in range(30):
            assert scene.see(pod("ada", 8, 10, 12), pod("bob", 8, 1, first=9)) == []
        assert scene.standing("ada") is Standing.ABOVE_REQUEST

    def test_under_pressure_the_largest_over_user_goes_first(self) -> None:
        scene = self.scene()
        acts = scene.see(
            pod("ada", 8, 6, 6), pod("bob", 8, 4, 6, 6, first=9), pod("eve", 8, 3.5, first=20)
        )
        assert acts == ["terminate bob 11 pressure"]
        assert {name for name, one in scene.verdicts.items() if one.pressure} == {
            "ada",
            "bob",
            "eve",
        }
        assert scene.standing("ada") is Standing.ABOVE_REQUEST

    def test_nobody_goes_for_what_nobody_is_guaranteed(self) -> None:
        scene = self.scene()
        assert (
            scene.see(pod("ada", 8, 16), pod("bob", 8, 8, first=9), pod("eve", 8, 8, first=20))
            == []
        )

    def test_not_more_than_is_lacking(self) -> None:
        scene = self.scene(headroom="1GiB")
        greedy = pod("ada", 8, *[2] * 10, 1, 1)
        acts = scene.see(greedy, pod("bob", 8, 7.5, first=40), devices=devices(free=0))
        assert acts == ["terminate ada 12 pressure"], "half a GiB is lacking, the newest holds one"

    def test_headroom_is_all_that_is_kept_ready(self) -> None:
        scene = self.scene(headroom="1GiB")
        assert scene.see(pod("ada", 8, 23, 8), pod("bob", 8, first=40)) == []
        assert scene.see(pod("ada", 8, 23, 8.5), pod("bob", 8, first=40)) == [
            "terminate ada 2 pressure"
        ]

    def test_a_grace_under_pressure(self) -> None:
        scene = self.scene(pressure_grace="2s")
        crowd = (pod("ada", 8, 20, 12), pod("bob", 8, first=40))
        assert scene.see(*crowd, after=0.1) == ["warn ada pressure"]
        assert scene.see(*crowd, after=1.0) == []
        assert scene.see(*crowd, after=1.0) == ["terminate ada 2 pressure"]
        assert scene.see(*crowd, after=0.4) == []
        assert scene.see(*crowd, after=0.1) == ["kill ada 2 pressure"]

    def test_a_neighbour_who_gives_memory_back_saves_him(self) -> None:
        scene = self.scene()
        scene.see(pod("ada", 8, 20, 5), pod("eve", 8, 7, first=9), pod("bob", 8, first=40))
        calm = (pod("ada", 8, 20, 5), pod("bob", 8, first=40))
        assert scene.see(*calm, after=0.1) == ["spare ada 2 pressure"]

    def test_over_the_limit_goes_before_above_the_request(self) -> None:
        scene = self.scene(grace="0s", pressure_grace="0s")
        scene.limits["bob"] = limit(8)
        crowd = (pod("ada", 8, 12, 8), pod("bob", 8, 7, 5, first=9), pod("eve", 8, first=40))
        assert scene.see(*crowd) == ["terminate bob 10 over_limit"]

    def test_under_pressure_the_grace_for_the_limit_is_cut_short(self) -> None:
        scene = Scene()
        crowd = (pod("ada", 8, 16, 16), pod("bob", 8, first=40))
        assert scene.see(*crowd) == ["terminate ada 2 pressure"]

    def test_with_overcommit_a_guarantee_is_less_than_the_request(self) -> None:
        scene = self.scene()
        scene.limits = {"ada": limit(24, guarantee=16), "bob": limit(24, guarantee=16)}
        crowd = (pod("ada", 24, 14, 10), pod("bob", 24, 8, first=9))
        assert scene.see(*crowd) == [], "nobody has more than he asked for"
        assert scene.verdicts["bob"].pressure


class TestUninvited:
    def test_is_told_and_no_more(self) -> None:
        scene = Scene()
        for _ in range(20):
            assert scene.see(pod("eve", 0, 30), pod("bob", 8, first=9)) == []
        assert scene.standing("eve") is Standing.UNINVITED

    def test_goes_by_policy_after_the_full_grace_even_under_pressure(self) -> None:
        scene = Scene(uninvited="terminate")
        crowd = (pod("eve", 0, 30, None), pod("bob", 8, first=9))
        acts = [text for _ in range(16) for text in scene.see(*crowd)]
        assert acts == [
            "warn eve uninvited",
            "terminate eve 1 uninvited",
            "terminate eve 2 uninvited",
            "kill eve 1 uninvited",
            "kill eve 2 uninvited",
        ]

    def test_outside_of_pods_it_is_the_hosts_own_affair(self) -> None:
        scene = Scene(uninvited="terminate", grace="0s", pressure_grace="0s")
        found = pod("eve", 0, 30)
        of_docker = replace(found, key=replace(found.key, pod_uid=None))
        assert scene.see(of_docker, pod("bob", 8, first=9)) == []
        assert scene.standing("eve") is Standing.UNINVITED
        assert scene.see(found) == ["terminate eve 1 uninvited"]

    def test_what_it_was_given_elsewhere_stays(self) -> None:
        scene = Scene(uninvited="terminate", grace="0s", pressure_grace="0s")
        both = container("ada", grant("a", 8, SECOND), use(1, 8 * GIB, SECOND), use(2, GIB, FIRST))
        assert scene.see(both) == ["terminate ada 2 uninvited"]


class TestBackends:
    def test_who_the_driver_holds_is_not_ended_for_his_limit(self) -> None:
        scene = Scene(grace="0s", pressure_grace="0s")
        greedy = pod("ada", 4, 9)
        scene.backends = {(greedy.key, FIRST): Backend.DRIVER}
        assert scene.see(greedy) == []
        assert scene.verdicts["ada"].backend is Backend.DRIVER
        assert "out-of-memory" in scene.verdicts["ada"].at_limit
        scene.backends = {}
        assert scene.see(greedy) == ["terminate ada 1 over_limit"]

    def test_but_for_what_others_are_guaranteed(self) -> None:
        scene = Scene()
        scene.limits = {"ada": limit(8, 32)}
        greedy = pod("ada", 8, 20, 12)
        scene.backends = {(greedy.key, FIRST): Backend.DRIVER}
        assert scene.see(greedy, pod("bob", 8, first=9)) == ["terminate ada 2 pressure"]

    def test_nobody_is_ended_where_nothing_is_enforced(self) -> None:
        scene = Scene(uninvited="terminate", grace="0s", pressure_grace="0s")
        greedy, guest = pod("ada", 4, 9), pod("eve", 0, 23, first=9)
        scene.backends = {(one.key, FIRST): Backend.NONE for one in (greedy, guest)}
        assert scene.see(greedy, guest) == []
        assert scene.standing("ada") is Standing.OVER_LIMIT


def test_a_device_is_short_before_there_is_pressure() -> None:
    """So that pressure is seen at once."""
    scene = Scene(headroom="1GiB")
    scene.see(pod("ada", 16, 16), pod("bob", 16, 13.5, first=9))
    assert scene.short == frozenset()
    scene.see(pod("ada", 16, 16), pod("bob", 16, 14.5, first=9))
    assert scene.short == {FIRST}
    scene.see(pod("ada", 16, 16), pod("bob", 16, 16, first=9))
    assert scene.short == frozenset(), "all that is guaranteed is used"


def test_host_processes_are_none_of_its_business() -> None:
    scene = Scene(grace="0s", pressure_grace="0s", uninvited="terminate")
    host, unknown = use(50, 30 * GIB), use(51, 30 * GIB)
    words = scene.see(pod("bob", 8), devices=devices(free=0), host=(host,), unknown=(unknown,))
    assert words == []


def test_a_fork_bomb_of_small_users() -> None:
    scene = Scene(grace="0s", pressure_grace="0s")
    alive: dict[int, float] = {}
    for step in range(30):
        for pid in range(50 * step, 50 * (step + 1)):
            alive[pid] = 0.125
        bomb = container(
            "ada", grant("a", 4), *(use(pid, int(size * GIB)) for pid, size in alive.items())
        )
        for text in scene.see(bomb, after=0.1):
            action, _, pid_text, _ = text.split()
            if action in (Action.TERMINATE.value, Action.KILL.value):
                del alive[int(pid_text)]
        assert sum(alive.values()) == 4
