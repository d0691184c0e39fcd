# SPDX-License-Identifier: Apache-2.0
"""The kernel's limit for requests: written when asked for, told what it was, refused when it would
break a client.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.hostfs import HostFs
from fuse_mounter.config import MounterConfig
from fuse_mounter.request_timeout import RequestTimeout, apply


@pytest.fixture
def host(tmp_path: Path) -> HostFs:
    host = HostFs(proc=tmp_path)
    host.fuse_request_timeout.parent.mkdir(parents=True)
    host.fuse_request_timeout.write_text("7\n")
    return host


def test_without_a_wish_it_is_only_read(host: HostFs) -> None:
    assert apply(host, None, RequestTimeout()) == RequestTimeout(7)
    assert host.fuse_request_timeout.read_text() == "7\n"


def test_it_is_set_once_and_what_it_was_is_told(host: HostFs) -> None:
    first = apply(host, 199.5, RequestTimeout())
    assert first == RequestTimeout(200, before=7)
    assert host.fuse_request_timeout.read_text() == "200"
    assert apply(host, 199.5, first) == first


def test_a_kernel_without_it(tmp_path: Path) -> None:
    host = HostFs(proc=tmp_path)
    assert apply(host, None, RequestTimeout()) == RequestTimeout()
    assert "Linux 6.15" in str(apply(host, 200, RequestTimeout()).problem)


def config(timeout: str, **mount: Any) -> MounterConfig:
    return MounterConfig.model_validate({"mounts": [mount], "health": {"request_timeout": timeout}})


XROOTD = {"name": "pool", "path": "pool", "driver": "xrootd", "source": "root://pool.example.org//"}


def test_it_may_not_be_shorter_than_a_clients_own_patience() -> None:
    with pytest.raises(ValueError, match=r"120 s would break mount 'pool'.*120 s.*use more"):
        config("120s", **XROOTD)
    assert config("121s", **XROOTD).health.request_timeout == 121
    assert config("60s", **XROOTD, xrdcl={"ConnectionWindow": 30}).health.request_timeout == 60


@pytest.mark.parametrize("value", ["0s", "500ms", "70000s"])
def test_what_the_kernel_cannot_keep_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="leave it out"):
        config(value, name="a", path="a", driver="passthrough", source="/srv/a")
