# SPDX-License-Identifier: Apache-2.0
"""What the README says is what there is: metrics, commands, configuration."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import cli, config
from agents.agent import installed, models
from fuse_mounter.config import MounterConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


GENERATOR = ROOT / "deploy/docs/generate_metrics.py"


@pytest.fixture(scope="module")
def generator() -> Any:
    """`deploy/docs/generate_metrics.py`: a program, in no package."""
    spec = importlib.util.spec_from_file_location("generate_metrics", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exposed(generator: Any) -> dict[str, tuple[str, str]]:
    """Name to type and help, as the agents expose them (a golden file, checked end to end)."""
    found: dict[str, tuple[str, str]] = generator.exposed(
        (ROOT / "tests/fixtures/exposition.txt").read_text()
    )
    return found


def test_metrics_reference_is_up_to_date(generator: Any) -> None:
    assert generator.main(["--check"]) == 0, "make docs"


def test_metrics_on_the_main_page_are_true(exposed: dict[str, tuple[str, str]]) -> None:
    rows = re.findall(r"^\| `(nodeshare_\w+)` \| (\w+) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) == 10
    assert {name: exposed.get(name) for name, _, _ in rows} == {
        name: (kind, text) for name, kind, text in rows
    }


def test_labels_are_found_however_a_family_is_made(generator: Any) -> None:
    source = """
TABLE = (("a", "From a table."), ("b", "Also."))
def many(statuses):
    for name, text in TABLE:
        yield made(f"x_{name}", text, "kind")
    Counter("x_c", "Direct.", ["one", "two"], registry=registry)
    GaugeMetricFamily(f"{PREFIX}_d", "In two " "pieces.", value=1)
    Histogram("x_e", "By keyword.", labelnames=("call",))
    other("x", "No family.")
def made(name, text, label):
    return GaugeMetricFamily(name, text, labels=["device", label])
"""
    found = dict(generator.Source(source).meanings())
    assert "No family." not in found
    assert found["From a table."] == found["Also."] == ("device", "kind")
    assert (found["Direct."], found["By keyword."]) == (("one", "two"), ("call",))
    assert found["In two pieces."] == ()


def test_metrics_have_base_units_and_their_agents_prefix(
    exposed: dict[str, tuple[str, str]],
) -> None:
    for name, (kind, _) in exposed.items():
        assert re.match(r"nodeshare_(agent|gpu|mount|view)_[a-z_]+$", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|mib|gib|percent|kb)(_|$)", name), name


def test_commands_table_is_complete() -> None:
    text = "\n".join(re.findall(r"^\| `nodeshare ([^`]+)` \|", README, re.MULTILINE))
    listed = {tuple(row.split()[:2]) for row in text.replace("\\|", "|").splitlines()}
    for words in commands(cli.parser(installed())):
        known = any(row[: len(words)] == words for row in listed) or any(
            row[0] == words[0] and len(words) == 2 and words[1] in row[1].split("|")
            for row in listed
            if len(row) > 1
        )
        assert known, f"nodeshare {' '.join(words)} is not in the README"


def commands(parser: argparse.ArgumentParser) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                below = commands(child)
                found += [(name, *words) for words in below] or [(name,)]
    return found


@pytest.mark.parametrize(
    "block",
    [
        block
        for page in (ROOT / "README.md", *sorted(ROOT.glob("*/README.md")))
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
        # Others are for the API server, or for helm.
        if not block.startswith(("apiVersion:", "# values of the chart"))
    ],
)
def test_configuration_in_the_documentation_is_valid(block: str) -> None:
    config.parse(block, models(installed()), name="README.md")


def test_the_documented_pod_binds_the_root_where_it_is() -> None:
    page = (ROOT / "fuse_mounter/README.md").read_text()
    (block,) = re.findall(r"```yaml\n(apiVersion: v1\n.*?)```", page, re.DOTALL)
    spec = yaml.safe_load(block)["spec"]
    (volume,), (mount,) = spec["volumes"], spec["containers"][0]["volumeMounts"]
    assert volume["hostPath"]["path"] == str(MounterConfig().root)
    assert (mount["name"], mount["mountPropagation"]) == (volume["name"], "HostToContainer")


def test_written_defaults_are_the_defaults() -> None:
    block = re.findall(r"```yaml\n(node:.*?)```", README, re.DOTALL)[0]
    assert config.parse(block, models(installed())).node == config.NodeConfig()


def test_output_in_the_readme_is_what_the_commands_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = re.findall(r"```yaml\n(node:.*?)```", README, re.DOTALL)[0]
    (tmp_path / "nodeshare.yaml").write_text(configuration)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(\$ nodeshare .*?)```", README, re.DOTALL)
    shown = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.M)[1:]]
    assert len(shown) == 2
    for part in shown:
        command, _, output = part.partition("\n")
        assert cli.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out.strip() == output.strip(), command
