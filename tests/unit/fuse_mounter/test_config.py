# SPDX-License-Identifier: Apache-2.0
"""What the section accepts, and how it refuses the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.config import parse
from agents.errors import ConfigError
from fuse_mounter.agent import AGENT
from fuse_mounter.config import MounterConfig

SCRATCH = {"name": "scratch", "driver": "passthrough", "source": "/srv/scratch", "path": "scratch"}


def load(**section: Any) -> MounterConfig:
    text = yaml.safe_dump({"fuse_mounter": section})
    loaded = parse(text, {"fuse_mounter": MounterConfig}).sections["fuse_mounter"]
    assert isinstance(loaded, MounterConfig)
    return loaded


def test_without_mounts_there_is_nothing_to_do() -> None:
    assert load().mounts == ()
    assert load().root == Path("/var/lib/nodeshare/mounts")


def test_every_driver_has_its_own_options() -> None:
    config = load(
        mounts=[
            {**SCRATCH, "options": {"cache_timeout": "5s"}},
            {"name": "data", "driver": "bind", "source": "/srv/data", "path": "lab/data/"},
        ]
    )
    scratch, data = config.mounts
    assert scratch.driver == "passthrough"
    assert scratch.options.cache_timeout == 5.0
    assert (data.driver, data.path, data.read_only) == ("bind", "lab/data", False)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param({"name": "Scratch"}, "'Scratch' is not a name", id="name"),
        pytest.param({"name": "x" * 64}, "at most 63", id="long name"),
        pytest.param(
            {"path": "/scratch"}, "'/scratch' is not a path below the root", id="absolute"
        ),
        pytest.param({"path": "a/../.."}, "not a path below the root", id="parent"),
        pytest.param({"path": ""}, "not a path below the root", id="empty"),
        pytest.param({"source": "srv"}, "'srv' is not an absolute path", id="source"),
        pytest.param({"driver": "nsf"}, "'nsf'", id="driver"),
        pytest.param({"option": {}}, "unknown key", id="unknown key"),
        pytest.param({"options": {"timeout": "1s"}}, "options.timeout: unknown key", id="option"),
        pytest.param({"options": {"cache_timeout": 1}}, "1 is not a duration", id="no unit"),
        pytest.param(
            {"source": "/var/lib/nodeshare"}, "contain itself", id="source above the root"
        ),
    ],
)
def test_a_wrong_entry_is_named(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(mounts=[{**SCRATCH, **changed}])
    assert problem in str(raised.value)
    assert "fuse_mounter" in str(raised.value)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        pytest.param({"name": "scratch", "path": "b"}, "two mounts are called", id="same name"),
        pytest.param({"name": "b", "path": "scratch"}, "overlap", id="same path"),
        pytest.param({"name": "b", "path": "scratch/deep"}, "overlap", id="inside"),
    ],
)
def test_mounts_that_disturb_each_other_are_refused(other: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(mounts=[SCRATCH, {**SCRATCH, **other}])


def test_paths_that_only_begin_alike_do_not_overlap() -> None:
    assert len(load(mounts=[SCRATCH, {**SCRATCH, "name": "b", "path": "scratch2"}]).mounts) == 2


@pytest.mark.parametrize("root", ["/", "/mnt"])
def test_the_root_is_not_a_top_directory(root: str) -> None:
    with pytest.raises(ConfigError, match="too close to the root"):
        load(root=root)


def test_limits_are_positive() -> None:
    with pytest.raises(ConfigError, match="never let a mount live"):
        load(health={"hang_after": 0})


def test_the_digest_changes_with_what_needs_another_client_only() -> None:
    (one,) = load(mounts=[SCRATCH]).mounts
    (moved,) = load(mounts=[{**SCRATCH, "name": "other", "path": "elsewhere"}]).mounts
    (changed,) = load(mounts=[{**SCRATCH, "read_only": True}]).mounts
    assert one.digest == moved.digest
    assert one.digest != changed.digest


def test_only_a_changed_root_needs_a_restart() -> None:
    old = load(root="/srv/a", mounts=[SCRATCH])
    assert AGENT.refuse_change(old, load(root="/srv/a")) is None
    reason = AGENT.refuse_change(old, load(root="/srv/b"))
    assert reason is not None
    assert "drain" in reason
