# SPDX-License-Identifier: Apache-2.0
"""What a configuration would do on a node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.config import NodeConfig, parse
from agents.hostfs import HostFs
from agents.mountinfo import parse as mount_table
from fuse_mounter.agent import AGENT
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers import autofs
from fuse_mounter.explain import Node, explain
from fuse_mounter.places import Places
from fuse_mounter.request_timeout import RequestTimeout

TABLE = """\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 0:40 / /cvmfs rw shared:9 - autofs auto.cvmfs rw,fd=7,pgrp=1,timeout=300,maxproto=5,indirect
31 30 0:41 / /cvmfs/there rw shared:10 - fuse.cvmfs2 cvmfs2 ro
32 20 0:42 / /direct rw - autofs systemd-1 rw,fd=9,pgrp=1,timeout=0,minproto=5,maxproto=5,direct
"""
HOME = {"name": "home", "driver": "nfs", "source": "nfs:/home", "path": "home", "read_only": True}
ETC = {"name": "etc", "driver": "bind", "source": "/srv", "path": "a/etc"}
CVMFS = {"name": "atlas", "driver": "cvmfs", "source": "atlas.cern.ch", "path": "atlas"}
EOS = {"name": "eos", "driver": "eosxd", "options": {"mgm": "root://eos"}, "path": "eos"}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(TABLE)
    return Node(
        places=Places(Path("/m"), Path("/run/n")),
        host=HostFs(proc=tmp_path, dev=tmp_path),
        table=mount_table(TABLE),
        beneath=True,
        request_timeout=RequestTimeout(0),
    )


def section(*mounts: dict[str, Any], **more: Any) -> MounterConfig:
    text = yaml.safe_dump({"fuse_mounter": {"root": "/m/root", "mounts": list(mounts), **more}})
    made = parse(text, {"fuse_mounter": MounterConfig}).sections["fuse_mounter"]
    assert isinstance(made, MounterConfig)
    return made


def test_an_export(node: Node) -> None:
    report = explain(section(HOME), node)
    (one,) = report.document["mounts"]
    assert one["runs"].startswith("mount.nfs nfs:/home /run/n/mounts/staging/home@")
    assert one["runs"].endswith(
        " -o vers=4,hard,timeo=600,retrans=2,noresvport,nosharecache,noatime,retry=0,ro"
    )
    assert one["problem"] == "no program mount.nfs; install nfs-common"
    assert one["server"] == "nfs"
    text = "\n".join(report.lines)
    assert "  pods see it at  /m/home" in text
    assert "  read only       yes" in text
    assert "  problem         no program mount.nfs; install nfs-common" in text


def test_what_is_written_is_named_and_not_shown(node: Node) -> None:
    (one,) = explain(section({**CVMFS, "parameters": {"CVMFS_X": "y"}}), node).document["mounts"]
    (written,) = one["writes"]
    assert written.startswith("/run/n/mounts/clients/atlas@")
    (eos,) = explain(section(EOS), node).document["mounts"]
    assert eos["with"]
    assert "EOS_FUSE_LOGFILE=" in "\n".join(explain(section(EOS), node).lines)


def test_how_pods_bind_it(node: Node) -> None:
    report = explain(section(ETC), node)
    pod = yaml.safe_load(report.document["pod"])
    assert pod["volumes"][0]["hostPath"] == {"path": "/m/root", "type": "Directory"}
    (mounted,) = pod["containers"][0]["volumeMounts"]
    assert mounted["mountPropagation"] == "HostToContainer"
    (one,) = report.document["mounts"]
    assert (one["runs"], one["problem"]) == ("nothing: the kernel mounts it", None)
    assert "  problem         none found" in report.lines


@pytest.mark.parametrize(
    ("limit", "wanted", "said"),
    [
        (None, None, "this kernel has none (Linux 6.15 has)"),
        (None, "60s", "this kernel has none (Linux 6.15 has); 60 s are asked for in vain"),
        (0, None, "none; health.request_timeout sets one for the whole node"),
        (30, None, "30 s"),
        (0, "60s", "60 s, for the whole node (now none)"),
    ],
)
def test_the_kernels_limit_for_requests(
    node: Node, limit: int | None, wanted: str | None, said: str
) -> None:
    health = {} if wanted is None else {"health": {"request_timeout": wanted}}
    other = Node(node.places, node.host, node.table, False, RequestTimeout(limit))
    report = explain(section(ETC, **health), other)
    assert report.document["request_timeout"] == said
    assert "Linux 6.5" in report.document["replacing"]
    anybody = explain(section(ETC), replace(other, beneath=None))
    assert anybody.document["replacing"] == "only root can tell how"


@pytest.mark.parametrize(
    ("source", "problem", "note"),
    [
        ("/cvmfs", "is the directory of an automounter", True),
        ("/cvmfs/not-yet", None, True),
        ("/cvmfs/there/in/it", None, False),
        ("/direct", None, True),
        ("/srv", None, False),
    ],
)
def test_sources_below_an_automounter(
    node: Node, source: str, problem: str | None, note: bool
) -> None:
    (one,) = explain(section({**ETC, "source": source}), node).document["mounts"]
    assert (problem or "") in (one["problem"] or "")
    assert bool(one["problem"]) is bool(problem)
    assert bool(one["notes"]) is note


def test_automounters_in_a_table() -> None:
    table = mount_table(TABLE)
    assert autofs.any_in(table)
    assert not autofs.any_in(table[:1])
    assert autofs.waits_for(table, Path("/elsewhere")) is None


def test_nothing_configured_and_described_machines(node: Node) -> None:
    assert explain(section(), node).lines == ["no mount is configured"]
    assert AGENT.explain(NodeConfig(), section(ETC), "demo").lines == ()
