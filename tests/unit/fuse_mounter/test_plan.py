# SPDX-License-Identifier: Apache-2.0
"""Plans by example, and the property: carrying out a plan leaves nothing to do, from any mess."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.holder_client import Ended
from agents.processes import ProcessKey
from fuse_mounter import steps
from fuse_mounter.observed import Client, Health, Instance, Layer, Observation, Shown, Stack
from fuse_mounter.plan import Want, plan
from fuse_mounter.publication import Publication
from fuse_mounter.steps import Action

WANT = Want("eos", "eos", "ab")
SHOWN = Shown((0, 51), "/", False)
KEY = ProcessKey(7, 70)
#: A digest covers the driver, so it says whether there is a client.
WITH_CLIENT = "ab"


def instance(number: int = 1, **changes: object) -> Instance:
    one = Instance(
        staging=f"eos@ab.{number}",
        name="eos",
        digest="ab",
        number=number,
        client=Client(ProcessKey(6 + number, 70)),
        shown=Shown((0, 50 + number), "/", False),
        health=Health.OK,
    )
    return replace(one, **changes)  # type: ignore[arg-type]  # by name


def seen(
    *instances: Instance, layers: tuple[Layer, ...] = (), anchor: int | None = 30
) -> Observation:
    return Observation(True, {"eos": Stack("eos", anchor, layers)}, instances)


def layer(number: int = 1, *, ours: bool = True) -> Layer:
    return Layer(100 + number, Shown((0, 50 + number), "/", False), ours)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        pytest.param(Observation(False), [steps.PrepareRoot()], id="no root"),
        pytest.param(
            seen(anchor=None), [steps.PlaceAnchor("eos"), steps.Start("eos")], id="nothing there"
        ),
        pytest.param(seen(instance(shown=None)), [], id="starting"),
        pytest.param(seen(instance(health=Health.UNKNOWN)), [], id="mounted, not probed"),
        pytest.param(
            seen(instance(), anchor=None),
            [steps.PlaceAnchor("eos"), steps.Publish("eos", "eos@ab.1", "eos", None)],
            id="first publication",
        ),
        pytest.param(seen(instance(), layers=(layer(),)), [], id="published"),
        pytest.param(
            seen(instance(2), layers=(layer(1),)),
            [steps.Publish("eos", "eos@ab.2", "eos", layer(1))],
            id="beneath a dead one",
        ),
        pytest.param(
            seen(instance(2), layers=(layer(2), layer(1))),
            [steps.DetachTop("eos", 101)],
            id="an agent died between attaching and detaching",
        ),
        pytest.param(
            seen(instance(3), layers=(layer(1), layer(2))),
            [steps.DetachTop("eos", 102), steps.Publish("eos", "eos@ab.3", "eos", layer(1))],
            id="a dead top on an older layer goes in the moment in which it is replaced",
        ),
        pytest.param(
            seen(instance(3), layers=(layer(1, ours=False), layer(2))),
            [steps.DetachTop("eos", 102)],
            id="what is not ours is neither replaced nor covered",
        ),
        pytest.param(
            seen(instance(1), instance(2), layers=(layer(2),)),
            [steps.Retire("eos@ab.1")],
            id="replaced",
        ),
        pytest.param(
            seen(instance(client=Client(KEY, Ended(-9))), layers=(layer(),)),
            [steps.Retire("eos@ab.1"), steps.Forget(KEY), steps.Start("eos")],
            id="client killed",
        ),
        pytest.param(
            seen(instance(health=Health.HUNG), layers=(layer(),)),
            [steps.Abort("eos@ab.1", (0, 51)), steps.Kill(KEY), steps.Start("eos")],
            id="hung",
        ),
        pytest.param(
            seen(instance(health=Health.DEAD), layers=(layer(),)),
            [steps.Kill(KEY), steps.Start("eos")],
            id="connection aborted",
        ),
        pytest.param(
            seen(instance(shown=None, overdue=True)),
            [steps.Kill(KEY), steps.Start("eos")],
            id="does not mount in time",
        ),
        pytest.param(
            seen(instance(present=False), instance(2), layers=(layer(2),)),
            [],
            id="a replaced client serves its open files",
        ),
        pytest.param(
            seen(instance(), layers=(layer(), layer(9, ours=False))),
            [],
            id="somebody mounted over it",
        ),
    ],
)
def test_next_steps(observation: Observation, expected: list[Action]) -> None:
    assert plan([WANT], observation) == expected


def test_a_new_configuration_replaces_the_old_client_only_when_it_serves() -> None:
    old = instance(1, digest="old")
    assert plan([WANT], seen(old, layers=(layer(1),))) == [steps.Start("eos")]
    starting = instance(2, shown=None)
    assert plan([WANT], seen(old, starting, layers=(layer(1),))) == []
    ready = instance(2)
    (publish,) = plan([WANT], seen(old, ready, layers=(layer(1),)))
    assert publish == steps.Publish("eos", "eos@ab.2", "eos", layer(1))


def test_a_mount_that_cannot_be_made_has_a_read_only_place_all_the_same() -> None:
    hopeless = replace(WANT, problem="no device")
    assert plan([hopeless], seen(anchor=None)) == [steps.PlaceAnchor("eos")]
    assert plan([hopeless], seen()) == []


def test_while_paused_nothing_is_started_and_nothing_is_taken_away() -> None:
    paused = replace(WANT, paused=True)
    assert plan([paused], seen(layers=(layer(),))) == []


def test_an_operator_who_wants_another_one_gets_it_beneath_the_one_that_serves() -> None:
    want = replace(WANT, newer_than=1)
    assert plan([want], seen(instance(), layers=(layer(),))) == [steps.Start("eos")]
    ready = seen(instance(), instance(2), layers=(layer(),))
    assert plan([want], ready) == [steps.Publish("eos", "eos@ab.2", "eos", layer(1))]


def test_a_hung_kernel_mount_is_replaced_when_somebody_asks() -> None:
    want = replace(WANT, has_client=False, newer_than=1)
    hung = instance(client=None, health=Health.HUNG)
    assert plan([want], seen(hung, layers=(layer(),))) == [steps.Start("eos")]


def test_what_is_drained_goes_and_its_place_stays_guarded() -> None:
    want = replace(WANT, drained=True)
    assert plan([want], seen(instance(), layers=(layer(),))) == [steps.DetachTop("eos", 101)]
    assert plan([want], seen(instance())) == [steps.Retire("eos@ab.1")]
    assert plan([want], seen(anchor=None)) == [steps.PlaceAnchor("eos")]
    assert plan([want], seen()) == []


def test_a_stale_mount_is_replaced() -> None:
    stale = instance(health=Health.STALE)
    assert plan([WANT], seen(stale, layers=(layer(),))) == [steps.Kill(KEY), steps.Start("eos")]


def test_while_its_server_is_waited_for_nothing_is_started_and_what_is_ready_is_shown() -> None:
    held = replace(WANT, held="the server is away")
    assert plan([held], seen()) == []
    (publish,) = plan([held], seen(instance()))
    assert isinstance(publish, steps.Publish)


def test_a_kernel_mount_that_is_on_its_way_is_waited_for_and_one_that_nobody_makes_is_not() -> None:
    want = replace(WANT, has_client=False)
    pending = instance(client=None, shown=None, health=Health.UNKNOWN, pending=True)
    assert plan([want], seen(pending)) == []
    left = replace(pending, pending=False)
    assert plan([want], seen(left)) == [steps.Retire("eos@ab.1"), steps.Start("eos")]


def test_a_replaced_client_that_cannot_end_is_ended() -> None:
    ready = instance(2)
    lost = instance(1, present=False, shown=None, abandoned=True)
    assert plan([WANT], seen(lost, ready, layers=(layer(2),))) == [steps.Kill(KEY)]


def test_an_empty_place_of_before_is_removed() -> None:
    assert plan([], seen(anchor=None)) == [steps.RemovePlace("eos")]


def test_a_hung_kernel_mount_is_waited_for() -> None:
    want = replace(WANT, has_client=False)
    hung = instance(client=None, health=Health.HUNG)
    assert plan([want], seen(hung, layers=(layer(),))) == []


def test_what_is_no_longer_wanted_goes_from_the_top_down() -> None:
    observation = seen(instance(), layers=(layer(),))
    assert plan([], observation) == [steps.DetachTop("eos", 101)]
    observation = seen(instance())
    assert plan([], observation) == [steps.RemoveAnchor("eos", 30), steps.Retire("eos@ab.1")]
    ending = instance(present=False, shown=None)
    assert plan([], Observation(True, {}, (ending,))) == [steps.Terminate(KEY)]
    late = replace(ending, overdue=True)
    assert plan([], Observation(True, {}, (late,))) == [steps.Kill(KEY)]


@dataclass
class World:
    """A machine on which every step works: what `plan` sees, and what its steps do."""

    root_ready: bool
    stacks: dict[str, Stack]
    instances: dict[str, Instance]
    number: int = 1000

    def observation(self) -> Observation:
        return Observation(self.root_ready, dict(self.stacks), tuple(self.instances.values()))

    def pass_time(self, wants: list[Want]) -> None:
        """Clients mount, and are probed; those whose last mount is gone end. Trouble of what pods
        see passes, as there is nothing to do about it.
        """
        clients = {want.name: want.has_client for want in wants}
        seen = {stack.top.shown for stack in self.stacks.values() if stack.top}
        for one in list(self.instances.values()):
            if one.running or (one.present and not clients.get(one.name, True)):
                shown = one.shown
                if one.present and shown is None:
                    shown = Shown((0, self.next()), "/", False)
                health = Health.OK if one.health is Health.UNKNOWN and shown else one.health
                if health is Health.FAULTY and shown in seen:
                    health = Health.OK
                if health is Health.HUNG and one.client is None:
                    health = Health.OK  # its server is back; until then it is waited for
                late = one.overdue or health is Health.FAULTY
                self.instances[one.staging] = replace(one, shown=shown, health=health, overdue=late)
            if one.client is None and not one.present:
                del self.instances[one.staging]

    def next(self) -> int:
        self.number += 1
        return self.number

    def take(self, step: Action, wants: list[Want]) -> None:
        match step:
            case steps.PrepareRoot():
                self.root_ready = True
            case steps.PlaceAnchor(path):
                assert not self.stack(path).layers
                self.stacks[path] = replace(self.stack(path), anchor=self.next())
            case steps.Start(name):
                self.start(next(want for want in wants if want.name == name))
            case steps.Publish(_, staging, path, top):
                ways = [way for want in wants for way in want.publications if way.path == path]
                self.publish(self.instances[staging], ways[0], top)
            case steps.DetachTop(path, mount_id):
                stack = self.stacks[path]
                assert stack.layers[-1].mount_id == mount_id
                assert stack.layers[-1].ours
                self.stacks[path] = replace(stack, layers=stack.layers[:-1])
            case steps.RemoveAnchor(path, mount_id):
                assert self.stacks[path] == Stack(path, mount_id)
                del self.stacks[path]
            case _:
                self.take_from_client(step)

    def take_from_client(self, step: Action) -> None:
        match step:
            case steps.Abort(staging, _):
                self.change(staging, health=Health.DEAD)
            case steps.Kill(key) | steps.Terminate(key):
                one = self.with_client(key)
                assert one.running
                self.change(one.staging, client=Client(key, Ended(-9)))
            case steps.Retire(staging):
                self.change(staging, present=False, shown=None)
                if self.instances[staging].client is None:
                    del self.instances[staging]
            case steps.Forget(key):
                one = self.with_client(key)
                assert not one.running
                assert not one.present
                del self.instances[one.staging]

    def with_client(self, key: ProcessKey) -> Instance:
        (found,) = (one for one in self.instances.values() if one.client and one.client.key == key)
        return found

    def change(self, staging: str, **changes: object) -> None:
        one = self.instances[staging]
        self.instances[staging] = replace(one, **changes)  # type: ignore[arg-type]  # by name

    def stack(self, path: str) -> Stack:
        return self.stacks.get(path) or Stack(path)

    def start(self, want: Want) -> None:
        number = self.next()
        staging = f"{want.name}@{want.digest}.{number}"
        client = Client(ProcessKey(number, 1)) if want.has_client else None
        self.instances[staging] = Instance(staging, want.name, want.digest, number, client=client)

    def publish(self, one: Instance, way: Publication, top: Layer | None) -> None:
        assert one.health is Health.OK, "only what answers is shown to pods"
        shown = way.shows(one.shown)
        assert shown is not None
        stack = self.stacks[way.path]
        assert stack.top == top
        above = stack.layers[:-1] if top is not None else ()
        self.stacks[way.path] = replace(stack, layers=(*above, Layer(self.next(), shown, True)))


names = st.sampled_from(["eos", "home"])
#: Kernel mounts of one source show the same; every FUSE connection has a device of its own.
kernel_shows = st.integers(1, 3).map(lambda minor: Shown((0, minor), "/", False))
shows = kernel_shows | st.integers(1, 6).map(lambda number: Shown((0, 10 + number), "/", False))
layers = st.builds(Layer, mount_id=st.integers(100, 10_000), shown=shows, ours=st.just(True))


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    name, digest, number = (
        draw(names),
        draw(st.sampled_from(["ab", "cd"])),
        draw(st.integers(1, 6)),
    )
    client = None
    if digest == WITH_CLIENT and draw(st.booleans()):
        key = ProcessKey(number, 1 if name == "eos" else 2)
        client = Client(key, draw(st.none() | st.just(Ended(1))))
    present = draw(st.booleans()) if client is not None else True
    own = st.just(Shown((0, 10 + number), "/", False))
    possible = own if digest == WITH_CLIENT else kernel_shows
    shown = draw(st.none() | possible) if present else None
    return Instance(
        f"{name}@{digest}.{number}",
        name,
        digest,
        number,
        present=present,
        client=client,
        shown=shown,
        health=draw(st.sampled_from(Health)) if shown else Health.UNKNOWN,
        overdue=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    stacks = {}
    for path in draw(st.sets(st.sampled_from(["eos", "home", "old/one"]))):
        above = tuple(draw(st.lists(layers, max_size=3, unique_by=lambda one: one.mount_id)))
        stacks[path] = Stack(path, 5, above)
    found = draw(st.lists(instances(), max_size=5, unique_by=lambda one: one.number))
    by_key = {one.client.key if one.client else one.staging: one for one in found}
    return World(draw(st.booleans()), stacks, {one.staging: one for one in by_key.values()})


wanted = st.lists(
    st.builds(
        lambda name, digest, newer, drained, also: Want(
            name,
            name,
            digest,
            has_client=digest == WITH_CLIENT,
            newer_than=newer,
            drained=drained,
            also=(
                Publication(f"also/{name}", read_only=True),
                Publication(f"folder/{name}", "public"),
            )[:also],
        ),
        names,
        st.sampled_from(["ab", "cd"]),
        st.integers(0, 6),
        st.booleans(),
        st.integers(0, 2),
    ),
    unique_by=lambda want: want.name,
    max_size=2,
)


@given(worlds(), wanted)
def test_carrying_out_plans_ends_with_what_is_wanted(world: World, wants: list[Want]) -> None:
    for _ in range(40):
        world.pass_time(wants)
        wants = with_copies(wants, world)
        todo = plan(wants, world.observation())
        for step in todo:
            world.take(step, wants)
        if not todo and world.observation() == settled(world, wants):
            break
    assert plan(wants, world.observation()) == []
    for want in wants:
        stack = world.stacks[want.path]
        top = stack.top
        if want.drained:
            assert (top, stack.anchor is not None) == (None, True)
            assert not world.observation().of(want.name)
            continue
        assert top is not None
        assert stack.anchor is not None
        # Besides it only clients that were replaced, and serve files that are open still.
        (serving,) = [one for one in world.observation().of(want.name) if one.present]
        assert serving.shown == top.shown
        assert serving.digest == want.digest
        assert serving.number > want.newer_than
        assert serving.running is want.has_client
        for way in want.also:
            top = world.stacks[way.path].top
            assert top is not None
            assert top.shown == way.shows(serving.shown)
    assert set(world.stacks) == {way.path for want in wants for way in want.publications}
    left = {one.name for one in world.instances.values()}
    assert left == {want.name for want in wants if not want.drained}


def with_copies(wants: list[Want], world: World) -> list[Want]:
    """Of every folder in everything that is there."""
    ready = frozenset(world.instances)
    return [
        replace(want, also=tuple(replace(way, ready=ready) for way in want.also)) for want in wants
    ]


def settled(world: World, wants: list[Want]) -> Observation:
    """The same a moment later."""
    before = world.observation()
    world.pass_time(wants)
    return before
