# SPDX-License-Identifier: Apache-2.0
"""Random life on random devices: whatever happens, what is done keeps to its rules.

The world is drawn at random and knows nothing of the decisions; what may be done in it is judged
here anew from the scan itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from agents.processes import ProcessKey
from gpu_plugin import enforcement
from gpu_plugin.accounting import Accounting, ContainerKey, DeviceUse, GpuContainer, GpuUse, Grant
from gpu_plugin.devices import ProcessKind
from gpu_plugin.enforcement import Decision, State
from gpu_plugin.enforcement_config import EnforcementConfig, Uninvited
from gpu_plugin.limits import NOTHING
from gpu_plugin.verdicts import Act, Action, Limits, Reason

MIB = 1 << 20
ENDING = (Action.TERMINATE, Action.KILL)


@dataclass
class Process:
    key: ProcessKey
    held: dict[str, int]
    stubborn: bool
    hidden: bool = False
    stuck_until: float = 0.0
    killed: bool = False


@dataclass
class Tenant:
    key: ContainerKey
    limits: dict[str, Limits]
    processes: list[Process] = field(default_factory=list)
    main: ProcessKey | None = None

    def held(self, device: str) -> int:
        return sum(process.held.get(device, 0) for process in self.processes)


class World:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = rng.choice([0.5, 10_000.0])
        self.pids = 100
        self.devices = {
            f"GPU-{n}": rng.randint(4, 32) * 256 * MIB for n in range(rng.randint(1, 2))
        }
        self.host: dict[str, int] = {}
        self.overcommit = rng.choice([1, 1, 1, 2])
        self.tenants: list[Tenant] = []
        self.restarts = 0
        for number in range(rng.randint(1, 6)):
            self.tenants.append(self.tenant(number))
        self.config = EnforcementConfig.model_validate(
            {
                "uninvited": rng.choice(list(Uninvited)),
                "grace": rng.choice(["2s", "3s", "10s"]),
                "pressure_grace": rng.choice(["0s", "0s", "2s"]),
                "headroom": rng.choice(["0B", "256MiB", "1GiB"]),
            }
        )
        self.asked: dict[ProcessKey, float] = {}

    def tenant(self, number: int) -> Tenant:
        rng, limits = self.rng, {}
        for device, total in self.devices.items():
            sold = sum(t.limits[device].request for t in self.tenants if device in t.limits)
            free = total * self.overcommit - sold
            if rng.random() < 0.2 or free < 64 * MIB:
                continue
            request = rng.randint(32, max(32, min(free, total) // MIB)) * MIB
            ratio = rng.choice([1, 1, 1.5, 3])
            limit = int(min(max(request, total), request * ratio))
            limits[device] = Limits(request, limit, request // self.overcommit, "drawn")
        return Tenant(ContainerKey(f"pod-{number}", f"{number:02}-{self.restarts}"), limits)

    def free(self, device: str) -> int:
        used = self.host.get(device, 0) + sum(tenant.held(device) for tenant in self.tenants)
        return self.devices[device] - used

    def happen(self) -> None:
        """One random thing, or nothing."""
        rng = self.rng
        things = [self.take, self.give_back, self.end, self.hide, self.host_takes]
        things += [self.restart, self.bomb, lambda tenant, device: None]
        thing = rng.choices(things, weights=[45, 15, 10, 5, 5, 4, 4, 12])[0]
        thing(rng.choice(self.tenants), rng.choice(list(self.devices)))

    def take(self, tenant: Tenant, device: str) -> None:
        rng = self.rng
        size = int(rng.choice([0, 0.1, 0.3, 1, 1]) * rng.random() * self.free(device))
        if rng.random() < 0.5 and tenant.processes:
            held = rng.choice(tenant.processes).held
            held[device] = held.get(device, 0) + size
        else:
            self.start(tenant, {device: size})

    def give_back(self, tenant: Tenant, device: str) -> None:
        for process in tenant.processes[-1:]:
            process.held = {k: int(v * self.rng.random()) for k, v in process.held.items()}

    def end(self, tenant: Tenant, device: str) -> None:
        if tenant.processes:
            self.gone(tenant, self.rng.choice(tenant.processes))

    def hide(self, tenant: Tenant, device: str) -> None:
        """The driver does not tell what a process holds, or does again."""
        if tenant.processes:
            self.rng.choice(tenant.processes).hidden ^= True

    def host_takes(self, tenant: Tenant, device: str) -> None:
        free = self.free(device) + self.host.get(device, 0)
        self.host[device] = int(self.rng.random() * 0.2 * free)

    def restart(self, tenant: Tenant, device: str) -> None:
        self.restarts += 1
        number = self.tenants.index(tenant)
        again = replace(tenant.key, container_id=f"{number:02}-{self.restarts}")
        self.tenants[number] = Tenant(again, tenant.limits)

    def bomb(self, tenant: Tenant, device: str) -> None:
        for _ in range(self.rng.randint(5, 30)):
            self.start(tenant, {device: int(self.rng.random() * self.free(device) / 20)})

    def start(self, tenant: Tenant, held: dict[str, int]) -> None:
        self.pids += 1
        # A pid is used again sooner or later; its start time tells them apart.
        key = ProcessKey(100 + self.pids % 37, self.pids)
        tenant.processes.append(Process(key, held, self.rng.random() < 0.3))
        if tenant.main is None and self.rng.random() < 0.5:
            tenant.main = key

    def gone(self, tenant: Tenant, process: Process) -> None:
        if process not in tenant.processes:
            return
        tenant.processes.remove(process)
        if process.key == tenant.main:
            tenant.processes.clear()

    def suffer(self, act: Act) -> None:
        tenant = next(t for t in self.tenants if t.key == act.container)
        found = [p for p in tenant.processes if p.key == act.process]
        for process in found:
            if act.action is Action.KILL:
                process.killed = True
                process.stuck_until = self.now + (2.0 if self.rng.random() < 0.2 else 0.0)
            elif not process.stubborn:
                if self.rng.random() < 0.2:
                    process.held = {k: v // 2 for k, v in process.held.items()}
                else:
                    self.gone(tenant, process)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for tenant in self.tenants:
            for process in list(tenant.processes):
                if process.killed and self.now >= process.stuck_until:
                    self.gone(tenant, process)

    def scan(self, *, calm: bool = False) -> Accounting:
        rng = self.rng
        told = [d for d in self.devices if calm or rng.random() < 0.95]
        containers = []
        for tenant in self.tenants:
            uses = [
                GpuUse(p.key, d, None if p.hidden else size, ProcessKind.COMPUTE)
                for p in tenant.processes
                for d, size in p.held.items()
                if d in told
            ]
            grants = tuple(
                Grant("a", "r", device, 1, limits.request)
                for device, limits in tenant.limits.items()
            )
            if uses or grants:
                container = GpuContainer(tenant.key, "/x", main=tenant.main, grants=grants)
                containers.append(replace(container, uses=tuple(uses)))
        rng.shuffle(containers)
        host = tuple(
            GpuUse(ProcessKey(7, 7), device, self.host.get(device, 0), ProcessKind.COMPUTE)
            for device in told
        )
        devices = {
            d: DeviceUse(d, self.devices[d], self.free(d), self.devices[d] - self.free(d), 0)
            for d in told
        }
        return Accounting(self.now, 0.0, devices, tuple(containers), host)

    def limits(self, accounting: Accounting) -> dict[ContainerKey, dict[str, Limits]]:
        by_key = {tenant.key: tenant.limits for tenant in self.tenants}
        return {
            container.key: {use.device: NOTHING for use in container.uses} | by_key[container.key]
            for container in accounting.containers
        }


class Judge:
    """Knows what may be done, from the scans alone."""

    def __init__(self, world: World) -> None:
        self.world, self.config = world, world.config
        self.asked: dict[ProcessKey, float] = {}
        self.over_since: dict[tuple[ContainerKey, str], float] = {}

    def look(self, scan: Accounting, decision: Decision) -> None:
        limits = self.world.limits(scan)
        containers = {container.key: container for container in scan.containers}
        for key, container in containers.items():
            for device in scan.devices:
                self._note(container, device, limits[key].get(device, NOTHING), scan.at)
        for act in decision.acts:
            assert act.device in scan.devices
            container = containers[act.container]
            if act.action in ENDING:
                self._judge(act, container, limits[act.container][act.device], scan)
        self._minimal(scan, decision, containers, limits)

    def _note(self, container: GpuContainer, device: str, limits: Limits, at: float) -> None:
        place = (container.key, device)
        if known(container, device) > (limits.limit or 0):
            self.over_since.setdefault(place, at)

    def _judge(self, act: Act, container: GpuContainer, limits: Limits, scan: Accounting) -> None:
        assert act.process is not None
        assert any(u.process == act.process and u.device == act.device for u in container.uses)
        used = known(container, act.device)
        if act.reason is Reason.UNINVITED:
            assert not container.request(act.device)
            assert self.config.uninvited is Uninvited.TERMINATE
        else:
            assert used > limits.request, "at or below its request"
            if used <= (limits.limit or 0):
                assert act.reason is Reason.PRESSURE
                assert lacking(scan, act.device, self.world, self.config) > 0
        if act.reason is Reason.OVER_LIMIT and act.action is Action.TERMINATE:
            assert used > (limits.limit or 0)
            assert scan.at - self.over_since[act.container, act.device] >= self.config.grace
        if act.action is Action.TERMINATE:
            self.asked[act.process] = scan.at
        else:
            waited = scan.at - self.asked[act.process]
            assert waited >= self.config.pressure_kill_after

    def _minimal(
        self,
        scan: Accounting,
        decision: Decision,
        containers: dict[ContainerKey, GpuContainer],
        limits: dict[ContainerKey, dict[str, Limits]],
    ) -> None:
        """Without any one of those that were now asked to end, or ended, it would not be enough:
        not for the container, and under pressure not for all of them together.
        """
        ending = {
            place: {
                mark.process: held(containers[place[0]], place[1], mark.process)
                for mark in case.marks
            }
            for place, case in decision.state.cases.items()
            if place[1] in scan.devices
        }
        for act in decision.acts:
            place = (act.container, act.device)
            if act.action not in ENDING or act.reason is Reason.UNINVITED or act.main:
                continue
            container, allowed = containers[act.container], limits[act.container][act.device]
            if any(process == container.main for process in ending[place]):
                continue
            used, lack = (
                known(container, act.device),
                lacking(scan, act.device, self.world, self.config),
            )
            goal = max(used - (allowed.limit or 0), min(lack, used - allowed.request))
            assert sum(ending[place].values()) - (act.held or 0) < goal
        self._last(scan, decision, ending)

    def _last(
        self,
        scan: Accounting,
        decision: Decision,
        ending: dict[tuple[ContainerKey, str], dict[ProcessKey, int]],
    ) -> None:
        """The largest over-user goes first; whoever is asked last is asked because what ends
        already, of all of them, is not enough.
        """
        asked = [act for act in decision.acts if act.action is Action.TERMINATE]
        for device in scan.devices:
            pressed = [a for a in asked if a.device == device and a.reason is Reason.PRESSURE]
            if pressed:
                last = pressed[-1].container
                new = sum(act.held or 0 for act in pressed if act.container == last)
                everywhere = sum(sum(of.values()) for at, of in ending.items() if at[1] == device)
                assert everywhere - new < lacking(scan, device, self.world, self.config)


def held(container: GpuContainer, device: str, process: ProcessKey) -> int:
    return sum(
        use.used or 0 for use in container.uses if use.process == process and use.device == device
    )


def known(container: GpuContainer, device: str) -> int:
    return sum(use.used or 0 for use in container.uses if use.device == device)


def lacking(scan: Accounting, device: str, world: World, config: EnforcementConfig) -> int:
    unused = 0
    limits = world.limits(scan)
    for container in scan.containers:
        if container.used(device) is not None:
            guarantee = limits[container.key].get(device, NOTHING).guarantee
            unused += max(0, guarantee - known(container, device))
    free = scan.devices[device].free
    assert free is not None
    return max(0, min(config.headroom, unused) - free)


def live(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    world = World(rng)
    judge, state = Judge(world), State()
    for _ in range(steps):
        for _ in range(rng.randint(0, 3)):
            world.happen()
        world.pass_time(rng.choice([0.1, 0.1, 1.0, 1.0, 3.0]))
        state = step(world, judge, state)
        if rng.random() < 0.01:
            state = State()  # the agent was killed; marks are gone with it
    settle(world, judge, state)


def step(world: World, judge: Judge, state: State, *, calm: bool = False) -> State:
    scan, now = world.scan(calm=calm), world.now
    limits = world.limits(scan)
    if not calm and world.rng.random() < 0.05:
        assert enforcement.decide(state, scan, limits, world.config, now=now + 60) is None
        return state
    decision = enforcement.decide(state, scan, limits, world.config, now=now)
    assert decision is not None
    mirrored = replace(scan, containers=tuple(reversed(scan.containers)))
    assert decision == enforcement.decide(state, mirrored, limits, world.config, now=now)
    if not calm and world.rng.random() < 0.05:
        late = replace(scan, at=scan.at - 5)
        found = enforcement.decide(decision.state, late, limits, world.config, now=now)
        assert found is None or not found.acts, "an earlier scan is no ground"
    judge.look(scan, decision)
    for act in decision.acts:
        if act.action in ENDING:
            world.suffer(act)
    return decision.state


def settle(world: World, judge: Judge, state: State) -> None:
    """Nobody asks for more: within the graces everybody is where he may be."""
    config = world.config
    for tenant in world.tenants:
        for process in tenant.processes:
            process.hidden = False
    waited = 0.0
    # Each process that frees only half when asked costs one more round.
    while waited < 2 * (config.grace + config.pressure_grace + config.kill_after) + 8:
        state = step(world, judge, state, calm=True)
        world.pass_time(0.5)
        waited += 0.5
    scan = world.scan(calm=True)
    for tenant in world.tenants:
        for device, limits in tenant.limits.items():
            assert tenant.held(device) <= (limits.limit or 0), "still over its limit"
            if lacking(scan, device, world, config):
                assert tenant.held(device) <= limits.request, "a guarantee is not restored"
        if config.uninvited is Uninvited.TERMINATE:
            assert not any(set(p.held) - set(tenant.limits) for p in tenant.processes)


@pytest.mark.parametrize("batch", range(4))
def test_whatever_happens_the_rules_are_kept(batch: int, soak: bool) -> None:
    lives, steps = (250, 60) if soak else (10, 40)
    for number in range(lives):
        seed = batch * 100_000 + number
        try:
            live(seed, steps)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
