# SPDX-License-Identifier: Apache-2.0
"""The section: what is accepted, and that each mistake is named with its remedy."""

from __future__ import annotations

import pytest

from agents import config
from agents.errors import ConfigError
from gpu_plugin.config import GIB, GpuPluginConfig, MigFilter, Placement
from gpu_plugin.enforcement_config import BackendChoice, Mode, Uninvited


def parse(text: str) -> GpuPluginConfig:
    section = config.parse(text, {"gpu_plugin": GpuPluginConfig}).sections["gpu_plugin"]
    assert isinstance(section, GpuPluginConfig)
    return section


def rule(fields: str) -> str:
    return f"gpu_plugin: {{resources: [{{{fields}}}]}}"


def test_a_whole_section() -> None:
    section = parse(
        """
        gpu_plugin:
          resources:
            - name: nodeshare/gpu-memory
              select: {models: ["*V100*"], mig: none, indices: [0, 1]}
              chunk: 512MiB
              reserved: 1GiB
              overcommit: 1.5
              placement: spread
              split: true
            - {name: nodeshare/mig-1g.10gb, select: {mig: ["1g.10gb"], count: 2}, exclusive: true}
          simulate: demo
          simulated_state: /run/state
        """
    )
    shared, dedicated = section.resources
    assert shared.select.mig is MigFilter.NONE
    assert (shared.chunk, shared.reserved, shared.placement) == (GIB // 2, GIB, Placement.SPREAD)
    assert dedicated.select.mig == ("1g.10gb",)
    assert (dedicated.exclusive, dedicated.select.count) == (True, 2)


def test_defaults_offer_one_gibibyte_units_of_everything() -> None:
    (only,) = parse(rule("name: nodeshare/gpu-memory")).resources
    assert (only.chunk, only.overcommit, only.placement) == (GIB, 1.0, Placement.PACK)
    assert only.select.mig is None
    assert parse("gpu_plugin:").resources == ()


@pytest.mark.parametrize(
    "name",
    ["nodeshare/gpu-memory", "mortalgpu/v100", "a.b.example.org/x_y.Z-9", f"a/{'x' * 63}"],
)
def test_names_that_the_api_server_takes(name: str) -> None:
    assert parse(rule(f"name: {name}")).resources[0].name == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpu", "has no domain"),
        ("nvidia.kubernetes.io/gpu", "belong to Kubernetes"),
        ("requests.example.org/gpu", "reads 'requests.' as a quota"),
        ("Node/gpu", "not a DNS domain"),
        ("a..b/gpu", "not a DNS domain"),
        ("a/b/gpu", "not a DNS domain"),
        (f"{'a.' * 125}a/gpu", "not a DNS domain"),
        ("nodeshare/gpu-", "begin and end with a letter or digit"),
        ("nodeshare/", "begin and end with a letter or digit"),
        (f"nodeshare/{'x' * 64}", "at most 63"),
        ("nodeshare/gpu memory", "must be letters"),
    ],
)
def test_names_that_the_api_server_refuses(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse(rule(f'name: "{name}"'))
    assert "gpu_plugin.resources.0.name" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("select: {mig: all}", "none, any or a list of profiles"),
        ("select: {mig: []}", "none, any or a list of profiles"),
        ('select: {mig: ["1G.10GB"]}', "'1G.10GB' is not a MIG profile"),
        ("select: {models: []}", "matches nothing; leave the key out"),
        ("select: {mig: none, mig_ids: [2]}", "drop one of the two"),
        ("select: {count: 0}", "select.count"),
        ("select: {uuid: [x]}", "unknown key; known are count, .*, uuids"),
        ("chunk: 0", "must be more than 0"),
        ("chunk: 1024", "is not a size"),
        ("overcommit: 0", "overcommit"),
        ("overcommit: .nan", "overcommit"),
        ("exclusive: true, chunk: 1GiB", "chunk means nothing"),
        ("placement: best", "placement"),
        ("blocks: {}", "write a name and a size for each block"),
        ("blocks: {8g: 8}", "is not a size"),
        ("blocks: {8g: 0GiB}", "must be more than 0"),
        ("blocks: {8g: 8GiB}, chunk: 1GiB", "blocks: .* so chunk means nothing"),
        ("blocks: {8g: 8GiB}, exclusive: true", "so blocks means nothing"),
        ("blocks: {8g: 8GiB}, honest_capacity: {sizes: [1]}", "honest_capacity means nothing"),
        ('blocks: {"8 g": 8GiB}', "'nodeshare/a-8 g': 'a-8 g' must be letters"),
        ("honest_capacity: {}", "honest_capacity.sizes: missing"),
        ("honest_capacity: {sizes: []}", "not a list of numbers of units"),
        ("honest_capacity: {sizes: [0]}", "honest_capacity.sizes.0"),
        ("honest_capacity: {sizes: [8GiB]}", "honest_capacity.sizes.0"),
        ("honest_capacity: {sizes: [8]}, split: true", "split: .* so honest_capacity means"),
        ("limit: {policy: bust}", "limit.policy"),
        ("limit: {max_ratio: 0.5}", "limit.max_ratio"),
        ("limit: {annotation: gpu-limit}", "limit.annotation: .* with its domain"),
        ("exclusive: true, limit: {policy: burst}", "exclusive: .* so limit means nothing"),
    ],
)
def test_mistakes_in_a_rule(fields: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(rule(f"name: nodeshare/a, {fields}"))


def test_sizes_by_resource_name() -> None:
    text = """
        gpu_plugin:
          resources:
            - {name: nodeshare/gpu, blocks: {8g: 8GiB, 20g: 20GiB}}
            - {name: nodeshare/memory, honest_capacity: {sizes: [20, 8]}}
            - {name: nodeshare/whole, exclusive: true}
        """
    blocks, memory, whole = parse(text).resources
    assert blocks.sizes == {"nodeshare/gpu-8g": 8 * GIB, "nodeshare/gpu-20g": 20 * GIB}
    assert (memory.sizes, whole.sizes) == ({"nodeshare/memory": GIB}, {"nodeshare/whole": None})


def test_the_name_of_a_block_may_not_be_that_of_another_resource() -> None:
    with pytest.raises(ConfigError, match=r"resources\.0 has this name already"):
        parse(
            """
            gpu_plugin:
              resources:
                - {name: nodeshare/gpu, blocks: {8g: 8GiB}}
                - {name: nodeshare/gpu-8g}
            """
        )


def test_an_agent_that_runs_takes_a_bad_name_and_serves_the_rest() -> None:
    """`nodeshare check` refuses it."""
    text = rule("name: nvidia.kubernetes.io/gpu")
    models = {"gpu_plugin": GpuPluginConfig}
    section = config.parse(text, models, only="gpu_plugin").sections["gpu_plugin"]
    assert isinstance(section, GpuPluginConfig)
    assert section.resources[0].name == "nvidia.kubernetes.io/gpu"


def test_a_state_without_a_machine_to_simulate() -> None:
    with pytest.raises(ConfigError, match="simulated_state without simulate"):
        parse("gpu_plugin: {simulated_state: /run/state}")


def test_all_mistakes_at_once_and_the_same_name_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            """
            gpu_plugin:
              resources:
                - {name: nodeshare/a, chunk: 5, split: perhaps}
                - {name: nodeshare/b, select: {mig: all}}
                - {name: nodeshare/a, colour: red}
            """
        )
    problems = str(caught.value).splitlines()
    assert [problem.split(": ")[1] for problem in problems] == [
        "gpu_plugin.resources.0.chunk",
        "gpu_plugin.resources.0.split",
        "gpu_plugin.resources.1.select.mig",
        "gpu_plugin.resources.2.colour",
        "gpu_plugin.resources.2.name",
    ]
    assert "resources.0 has this name already" in problems[-1]


def test_enforcement_is_on_unless_somebody_says_otherwise() -> None:
    found = parse("gpu_plugin: {}").enforcement
    assert (found.mode, found.backend) == (Mode.ENFORCE, BackendChoice.AUTO)
    assert found.uninvited is Uninvited.REPORT
    assert (found.grace, found.pressure_grace, found.headroom) == (10.0, 0.0, GIB)
    hurried = parse(
        "gpu_plugin: {enforcement: {kill_after: 200ms, period: 50ms, grace: 0s}}"
    ).enforcement
    assert (hurried.kill_after, hurried.period) == (0.2, 0.05)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{mode: on}", "mode"),
        ("{mode: yes}", "mode"),
        ("{backend: nvml}", "backend"),
        ("{uninvited: kill}", "uninvited"),
        ("{grace: 10}", "10 is not a duration"),
        ("{grace: -1s}", "is not a duration"),
        ("{period: 0s}", "period.*at least 20ms"),
        ("{pressure_period: 1ms}", "pressure_period.*at least 20ms"),
        ("{headroom: 1GB}", "headroom.*is not a size"),
        ("{grace: 5s, pressure_grace: 6s}", "pressure_grace is longer than grace"),
        ("{period: 1s, pressure_period: 2s}", "pressure_period is longer than period"),
        ("{kill: 1s}", "unknown key"),
    ],
)
def test_mistakes_about_enforcement(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(f"gpu_plugin: {{enforcement: {text}}}")
