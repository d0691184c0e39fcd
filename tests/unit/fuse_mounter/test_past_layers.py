# SPDX-License-Identifier: Apache-2.0
"""Which device numbers were ours: what counts, and what is kept for the next agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.mountinfo import parse
from fuse_mounter import past_layers
from fuse_mounter.bindings import Past
from fuse_mounter.config import MounterConfig

ROOT = "20 1 8:1 /m /m rw shared:1 - ext4 /dev/sda rw"
ANCHOR = "30 20 0:50 / /m/eos ro shared:2 - tmpfs nodeshare-anchor ro"
LAYER = "31 30 0:51 / /m/eos rw shared:3 - fuse.x nodeshare:eos rw"
OLDER = "32 31 0:52 / /m/eos rw shared:3 - fuse.x nodeshare:eos rw"
THEIRS = "33 32 0:53 / /m/eos rw shared:3 - fuse.sshfs them: rw"
MOUNTS = MounterConfig.model_validate(
    {"mounts": [{"name": "eos", "driver": "bind", "path": "eos", "source": "/srv"}]}
).mounts
OURS = Past("eos", "fuse.x", "nodeshare:eos")


@pytest.mark.parametrize(
    ("lines", "devices"),
    [
        ([ROOT, ANCHOR, LAYER], {(0, 51)}),
        ([ROOT, ANCHOR, LAYER, OLDER], {(0, 51), (0, 52)}),
        ([ROOT, ANCHOR, LAYER, OLDER, THEIRS], {(0, 51), (0, 52)}),
        ([ROOT, ANCHOR], set()),
        ([ROOT, LAYER.replace("31 30", "31 20")], set()),
        ([ROOT, ANCHOR, "31 30 8:1 /srv /m/eos rw - ext4 /dev/sda rw"], set()),
    ],
)
def test_what_lies_on_an_anchor_and_is_served_by_a_client_is_ours(
    lines: list[str], devices: set[tuple[int, int]]
) -> None:
    found = past_layers.of(parse("\n".join(lines)), Path("/m"), MOUNTS)
    assert found == dict.fromkeys(devices, OURS)


def test_the_next_agent_knows_what_this_one_knew(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    assert past_layers.read(file) == {}
    past_layers.write(file, {(0, 51): OURS})
    assert past_layers.read(file) == {(0, 51): OURS}
    assert [path.name for path in tmp_path.iterdir()] == ["layers.json"]
    for broken in ("", "[[1]]", "{}", '[["a", 1, "b", "c", "d"]]', "[1]"):
        file.write_text(broken)
        assert past_layers.read(file) == {}
    past_layers.write(tmp_path / "missing/layers.json", {(0, 51): OURS})
