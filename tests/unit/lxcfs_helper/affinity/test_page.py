# SPDX-License-Identifier: Apache-2.0
"""What the page about CPU counts says is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from agents import config
from agents.agent import installed, models
from lxcfs_helper.affinity.environment import VARIABLES
from lxcfs_helper.affinity.profile_files import localhost_profile
from lxcfs_helper.affinity.profile_keeper import LABEL
from lxcfs_helper.affinity.profiles_config import BUILT_IN
from lxcfs_helper.config import AffinityConfig, ViewConfig

PAGE = (Path(__file__).parents[4] / "lxcfs_helper/affinity/README.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", [one for one in BLOCKS if not one.startswith("apiVersion")])
def test_the_configuration_is_valid(block: str) -> None:
    config.parse(block, models(installed()), name="README.md")


def test_the_written_defaults_are_the_defaults() -> None:
    loaded = config.parse(BLOCKS[0], models(installed()))
    section = loaded.sections["lxcfs_helper"]
    assert isinstance(section, ViewConfig)
    assert section.affinity == AffinityConfig(enabled=True)


def test_the_pod_names_a_profile_and_the_label_that_there_are() -> None:
    (pod,) = (yaml.safe_load(one) for one in BLOCKS if one.startswith("apiVersion"))
    profile = pod["spec"]["securityContext"]["seccompProfile"]
    assert profile == {"type": "Localhost", "localhostProfile": localhost_profile(BUILT_IN[0])}
    assert pod["spec"]["nodeSelector"] == {LABEL: "true"}
    for name in BUILT_IN:
        assert f"| `{localhost_profile(name)}` |" in PAGE


def test_every_variable_is_listed_with_its_reader() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert rows == VARIABLES
