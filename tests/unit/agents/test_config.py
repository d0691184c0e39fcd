# SPDX-License-Identifier: Apache-2.0
"""The configuration file: everything wrong is said at once, with path, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from agents import config
from agents.api_server_config import StartupTaints
from agents.config import Duration, Section, Size, parse_duration, parse_size
from agents.errors import ConfigError


class Purge(Section):
    every: Duration = 60.0
    above: Size = 0


class A(Section):
    kind: Literal["a"]


class B(Section):
    kind: Literal["b"]


class Demo(Section):
    purge: Purge = Purge()
    kinds: tuple[Annotated[A | B, Field(discriminator="kind")], ...] = ()
    names: tuple[str, ...] = ()


MODELS: dict[str, type[Section]] = {"demo": Demo}


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, MODELS, name="f.yaml")
    return str(caught.value).splitlines()


def test_empty_file_is_all_defaults() -> None:
    loaded = config.parse("", MODELS)
    assert loaded.node.metrics.ports.gpu_plugin == 9401
    assert loaded.sections == {}


def test_written_section_is_decoded_with_units() -> None:
    loaded = config.parse("demo: {purge: {every: 200ms, above: 1.5GiB}}", MODELS)
    demo = loaded.sections["demo"]
    assert isinstance(demo, Demo)
    purge = demo.purge
    assert (purge.every, purge.above) == (0.2, 3 << 29)


def test_section_without_content_is_its_defaults() -> None:
    assert config.parse("demo:", MODELS).sections == {"demo": Demo()}


def test_all_problems_are_said_at_once() -> None:
    found = problems("node: {log: {lvl: info}}\ndemo: {purge: {every: 5, above: 1GB}}\nother: 1\n")
    assert found == [
        "f.yaml: other: unknown key; known are demo, node",
        "f.yaml: node.log.lvl: unknown key; known are format, level",
        "f.yaml: demo.purge.every: 5 is not a duration; write a number with ms, s, m, h or d,"
        " such as 2s",
        "f.yaml: demo.purge.above: '1GB' is not a size; write a number with B, KiB, MiB, GiB or"
        " TiB, such as 1GiB",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node: {kubelet_dir: var/lib}", "node.kubelet_dir: 'var/lib' is not an absolute path"),
        ("node: {run_dir: /run/../etc}", "is not an absolute path without '..'"),
        ("node: {metrics: {address: all}}", "node.metrics.address: 'all' is not an IP address"),
        ("node: {metrics: {ports: {gpu_plugin: 70000}}}", "less than or equal to 65535"),
        ("node: {status: {address: 0.0.0.0}}", "can be reached from other machines"),
        ("node: {log: {level: on}}", "node.log.level: True"),
        ("demo: {names: x}", "demo.names: 'x': input should be a list"),
        ("demo: 0", "demo: 0: input should be keys with values"),
        ("demo: {names: [a], names: [b]}", "the key 'names' is written twice"),
        ("[1, 2]", "the file holds list, not sections"),
        ("1: 2", "1: a section name must be text"),
        ("demo: {", "not valid YAML"),
        ("a: &a [*a]", "not valid YAML"),
        ("? [x]\n: y", "not valid YAML"),
        ("demo: {names: [2020-99-99]}", "not valid YAML"),
        ("node: {metrics: {ports: {gpu_plugin: yes}}}", "gpu_plugin: True: input should be"),
        (f"demo: {{purge: {{above: {'9' * 400}GiB}}}}", "is not a size"),
        (f"demo: {{purge: {{every: {'9' * 400}s}}}}", "is not a duration"),
        ("demo: {kinds: [{}]}", "demo.kinds.0: the key 'kind' is missing"),
        ("demo: {kinds: [{kind: c}]}", "demo.kinds.0: 'c' is unknown; known are 'a', 'b'"),
    ],
)
def test_mistakes_are_named(text: str, expected: str) -> None:
    assert any(expected in line for line in problems(text)), problems(text)


def test_a_whole_section_in_the_wrong_place_is_cut_short() -> None:
    (problem,) = problems(f"demo: {list(range(1000))}")
    assert problem.endswith("...]: input should be keys with values")
    assert len(problem) < 200


def test_large_sizes_are_exact() -> None:
    assert parse_size("9007199254740993B") == 9007199254740993


def test_text_is_utf8_whatever_the_locale_says(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes("demo: {names: [Grüße]}".encode())
    demo = config.load(path, MODELS).sections["demo"]
    assert isinstance(demo, Demo)
    assert demo.names == ("Grüße",)


def test_another_agents_mistake_does_not_concern_this_one() -> None:
    models: dict[str, type[Section]] = {**MODELS, "second": Demo}
    loaded = config.parse("demo: {names: [a]}\nsecond: {wrong: 1}", models, only="demo")
    assert set(loaded.sections) == {"demo"}
    with pytest.raises(ConfigError, match=r"second\.wrong"):
        config.parse("demo: {names: [a]}\nsecond: {wrong: 1}", models)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        config.load(tmp_path / "none.yaml", MODELS)


def test_binary_garbage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "garbage.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError):
        config.load(path, MODELS)


def test_digest_follows_the_bytes() -> None:
    first, second = config.parse("node:", MODELS), config.parse("node: ", MODELS)
    assert first.node == second.node
    assert first.digest != second.digest


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_clear_error(text: str) -> None:
    try:
        config.parse(text, MODELS)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_scale(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * {
        "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400,
    }[unit]  # fmt: skip


@pytest.mark.parametrize("value", ["5", "5 s", "-1s", "1e3s", "s", "", None, True, 5, 0.1, "5sec"])
def test_durations_need_a_unit(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["1G", "1GB", "GiB", "-1GiB", 7, True, None, [1]])
def test_sizes_need_a_binary_unit(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)


def test_node_name_prefers_file_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "from-environment")
    assert config.parse("node: {name: from-file}", {}).node.node_name() == "from-file"
    assert config.parse("", {}).node.node_name() == "from-environment"


def startup_taints(text: str) -> StartupTaints:
    whole = f"node: {{api_server: {{startup_taints: {{{text}}}}}}}"
    return config.parse(whole, {}).node.api_server.startup_taints


def test_each_agent_has_a_startup_taint_of_its_own() -> None:
    keys = [key for _, key in StartupTaints()]
    assert len(set(keys)) == len(keys) == 3
    taints = startup_taints("gpu_plugin: example.org/gpu, fuse_mounter: null")
    assert (taints.gpu_plugin, taints.fuse_mounter) == ("example.org/gpu", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu_plugin: gpu-not-ready", "is not the key of a taint, such as"),
        ("gpu_plugin: Upper.org/x", "is not the key of a taint"),
        ("gpu_plugin: a/b/c", "is not the key of a taint"),
        ("gpu_plugin: 'a/b=c:NoSchedule'", "is not the key of a taint"),
        ("gpu_plugin: a/b, lxcfs_helper: a/b", "two agents have 'a/b'.*give each its own"),
        ("gpu_plugin: nodeshare/view-not-ready", "two agents have"),
    ],
)
def test_a_wrong_startup_taint_is_named(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        startup_taints(text)
    assert "node.api_server.startup_taints" in str(caught.value)
