# SPDX-License-Identifier: Apache-2.0
"""The pages for users, for hubs and for those who come from elsewhere say what is there: every YAML
is taken by what it is written for, every command by the parser, every link leads somewhere.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from nodeshare_hub.parsing import parse

from agents import cli, config
from agents.agent import installed, models
from fuse_mounter.config import MounterConfig
from tests.fakes.kubernetes_schemas import VERSIONS, problems

ROOT = Path(__file__).parents[3]
PAGES = (
    ROOT / "deploy/jupyterhub/README.md",
    ROOT / "deploy/docs/users.md",
    *sorted((ROOT / "deploy/docs").glob("migration-*.md")),
)


def blocks(language: str) -> list[Any]:
    """Every block of all pages, with the name of its page."""
    return [
        pytest.param(page, block, id=f"{page.parent.name}/{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        )
    ]


def values_on_the_main_page() -> list[Any]:
    page = ROOT / "README.md"
    found = re.findall(r"```yaml\n(# values of the chart.*?)```", page.read_text(), re.DOTALL)
    assert found
    return [pytest.param(page, block, id=f"README-{n}") for n, block in enumerate(found)]


@pytest.mark.parametrize(("page", "block"), [*blocks("yaml"), *values_on_the_main_page()])
def test_yaml_is_taken_by_what_it_is_for(page: Path, block: str) -> None:
    first = block.splitlines()[0]
    if first.startswith("apiVersion:"):
        for document in yaml.safe_load_all(block):
            assert [problems(document, one) for one in VERSIONS] == [[]] * len(VERSIONS)
    elif first.startswith("# nodeshare.yaml"):
        config.parse(block, models(installed()), name=page.name)
    elif first.startswith("# values of the chart nodeshare"):
        values = yaml.safe_load(block)
        chart = ROOT / "deploy/helm/nodeshare/values.schema.json"
        jsonschema.validate(values, json.loads(chart.read_text()))
        config.parse(yaml.safe_dump(values["config"]), models(installed()), name=page.name)
    elif first.startswith("# the hub's settings"):
        parse(yaml.safe_load(block))
    else:
        assert first.startswith("# before: "), "say in the first line what it is for"
        assert yaml.safe_load(block)


def test_volumes_of_pods_are_bound_where_mounts_are() -> None:
    """And so that they see recoveries."""
    root = str(MounterConfig().root)
    seen = 0
    for block in (one.values[1] for one in blocks("yaml")):
        spec = next(yaml.safe_load_all(block)).get("spec") or {}
        paths = {one["name"]: one["hostPath"]["path"] for one in spec.get("volumes", ())}
        for mount in (one for c in spec.get("containers", ()) for one in c.get("volumeMounts", ())):
            if paths[mount["name"]].startswith(root):
                assert mount["mountPropagation"] == "HostToContainer"
                assert "readOnly" not in mount
                seen += 1
    assert seen


def test_what_the_importer_makes_is_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "deploy/docs/migration-mortalgpu.md"
    before, after = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)[:2]
    (tmp_path / "values.yaml").write_text(before)
    words = ["import", "mortalgpu", str(tmp_path / "values.yaml"), "--machine", "a100-mig-maxiv"]
    assert cli.main(words) == 0
    written = capsys.readouterr()
    assert yaml.safe_load(written.out) == yaml.safe_load(after)
    assert written.err == "", "all of it was carried over"


def commands() -> list[str]:
    """Those of consoles, also in a container, and those that a sentence mentions."""
    found: list[str] = []
    for page in (one.read_text() for one in PAGES):
        for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
            for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
                found += re.split(r"&&|-- (?=nodeshare )|[|>#]", line)
        found += re.findall(r"`(nodeshare [a-z][^`]*)`", page)
    return sorted({one.strip() for one in found if one.strip().startswith("nodeshare ")})


@pytest.mark.parametrize("command", commands())
def test_commands_are_those_that_there_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        cli.parser(installed()).parse_args(shlex.split(command)[1:])
    except SystemExit:  # a sentence may mention a command without its arguments
        assert "the following arguments are required" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("block", [one.values[1] for one in blocks("python")])
def test_python_compiles(block: str) -> None:
    compile(block, "page", "exec")
