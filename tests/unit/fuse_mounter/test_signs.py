# SPDX-License-Identifier: Apache-2.0
"""Signs: read now and then, kept over half a file, shown as metrics; credentials that change;
leftovers of clients; logs."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

from agents.hostfs import HostFs
from fuse_mounter import metrics
from fuse_mounter.drivers import client_log, credentials, s3fs
from fuse_mounter.drivers.base import Measurement, Sign, private_name
from fuse_mounter.drivers.eosxd_config import EosxdMount, EosxdOptions, statistics_file
from fuse_mounter.drivers.registry import DRIVERS
from fuse_mounter.drivers.s3fs import S3fsCredentials, S3fsMount
from fuse_mounter.leftovers import Leftovers
from fuse_mounter.observed import Instance, Shown
from fuse_mounter.places import Places
from fuse_mounter.signs import EVERY_S, Signs
from fuse_mounter.standing import Standing
from tests.unit.fuse_mounter.test_metrics import STATUS

EOS = EosxdMount(driver="eosxd", name="eos", path="eos", options=EosxdOptions(mgm="eos"))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "root", tmp_path / "run")
    for place in (made.staging, made.clients, made.log("x").parent):
        place.mkdir(parents=True)
    return made


async def test_statistics_are_read_now_and_then(places: Places, autojump_clock: MockClock) -> None:
    signs = Signs(places.staging.joinpath, HostFs())
    one = Instance("eos@ab.1", "eos", "ab", 1, shown=Shown((0, 50), "/", False))

    def look() -> Sign | None:
        signs.look([one], [EOS])
        return signs.last(one.staging)

    assert look() is None, "none yet"
    file = Path(f"{statistics_file(places.staging / one.staging)}.json")
    file.write_text('{"stats": {"last-heartbeat-secs": 100}}')
    assert look() is None, "too soon"
    await trio.sleep(EVERY_S)
    first = look()
    assert signs.suspicion(one.staging) == "its server's last heartbeat was 100 s ago"
    file.write_text('{"stats": {"last-h')
    await trio.sleep(EVERY_S)
    assert look() is first, "half a file says nothing new"
    os.utime(file, (time.time() - 60,) * 2)
    file.unlink()
    await trio.sleep(EVERY_S)
    assert look() is None
    signs.look([replace(one, shown=None)], [EOS])
    assert signs.last(one.staging) is None


def test_measurements_are_metrics_of_their_mounts() -> None:
    count = Measurement("eosxd_things_total", "Things.", "counter", 3, (("kind", "a"),))
    other = replace(count, value=4, labels=(("kind", "b"),))
    age = Measurement("eosxd_age_seconds", "Age.", "gauge", 1.5)
    statuses = (
        replace(STATUS, name="one", sign=Sign(None, (count, other, age))),
        replace(STATUS, name="two", sign=Sign("oh", (age,))),
        replace(STATUS, name="three"),
    )
    registry = CollectorRegistry()
    registry.register(metrics.collector(lambda: Standing(statuses)))
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if "_eosxd_" in line and "#" not in line] == [
        'nodeshare_mount_eosxd_things_total{kind="a",mount="one"} 3.0',
        'nodeshare_mount_eosxd_things_total{kind="b",mount="one"} 4.0',
        'nodeshare_mount_eosxd_age_seconds{mount="one"} 1.5',
        'nodeshare_mount_eosxd_age_seconds{mount="two"} 1.5',
    ]


def test_a_file_of_credentials_that_is_replaced_is_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    mount = S3fsMount(
        driver="s3fs",
        name="s3",
        path="s3",
        source="bucket",
        credentials=S3fsCredentials(passwd_file=path),
    )
    assert credentials.files(mount) == (path,)
    seen = [credentials.digest_now(mount)]
    path.write_text("a:b")
    seen.append(credentials.digest_now(mount))
    assert credentials.digest_now(mount) == seen[-1], "as long as it is the same"
    aside = tmp_path / "aside"
    aside.write_text("a:c")
    os.utime(aside, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    aside.replace(path)
    seen.append(credentials.digest_now(mount))
    path.write_text("a:d")
    os.utime(path, (1, 1))
    seen.append(credentials.digest_now(mount))
    assert len(set(seen)) == 4
    assert all(re.fullmatch("[0-9a-f]{8}", one) for one in seen)
    assert credentials.digest_now(EOS) == EOS.digest, "it names no file"


async def test_the_cache_of_a_client_goes_when_the_client_is_gone(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = tmp_path / "caches"
    monkeypatch.setattr("fuse_mounter.drivers.eosxd.Eosxd.caches", caches)
    names = ["eos@ab.1", "eos@ab.2"]
    made = [caches / private_name(places.staging / name) for name in names]
    foreign = caches / private_name(tmp_path / "other/run/mounts/staging" / names[0])
    strange = caches / "something"
    for place in (*made, foreign, strange):
        (place / "cache").mkdir(parents=True)
    leftovers = Leftovers(places)

    async def clear(*alive: str, configured: tuple[str, ...] = ()) -> set[Path]:
        async with trio.open_nursery() as nursery:
            leftovers.clear(alive, configured, nursery)
        return {place for place in made if place.exists()}

    assert await clear(*names) == {*made}
    assert await clear(names[1]) == {made[1]}
    assert await clear() == set()
    assert foreign.exists()
    assert strange.exists()
    (made[0] / "cache").mkdir(parents=True)
    leftovers = Leftovers(places)  # an agent that starts anew
    assert await clear() == set()


async def test_what_rclone_has_not_sent_is_kept_for_the_next_client(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuse_mounter.drivers.rclone.Rclone.caches", tmp_path)
    cache = tmp_path / DRIVERS["rclone"].cache_name(places.staging / "far@ab.1")
    assert cache.name == DRIVERS["rclone"].cache_name(places.staging / "far@cd.2").strip()
    meta = cache / "vfsMeta/there/file"
    meta.parent.mkdir(parents=True)
    meta.write_text('{\n\t"Fingerprint": "",\n\t"Dirty": true\n}')
    leftovers = Leftovers(places)

    async def clear(*configured: str) -> bool:
        async with trio.open_nursery() as nursery:
            leftovers.clear((), configured, nursery)
        return cache.exists()

    assert await clear("far"), "between two clients"
    assert await clear(), "there is something in it that is nowhere else"
    meta.write_bytes(b"\xff")
    leftovers = Leftovers(places)
    assert await clear(), "nobody can say what is in it"
    meta.write_text('{"Dirty": false}')
    leftovers = Leftovers(places)
    assert await clear("far")
    assert not await clear()


def test_the_last_words_of_a_client(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert client_log.last_words(log) == ""
    log.write_text(
        "2026-11-21T14:28:24.111Z [CRT] s3fs.cpp:s3fs_check_service(3590): invalid credentials\n"
        "2026-11-21T14:28:24.112Z [ERR] s3fs.cpp:s3fs_exit_fuseloop(3372): Exiting FUSE event loop"
        " due to errors\n\n"
    )
    assert client_log.last_words(log) == "invalid credentials"
    log.write_text("fuse: bad mount point\n")
    assert client_log.last_words(log) == "fuse: bad mount point"


def test_a_complaint_is_the_last_thing_that_was_said_and_not_long_ago(tmp_path: Path) -> None:
    log, error = tmp_path / "a.log", re.compile(r"\bERROR\s*:")
    log.write_text("x ERROR : who: refused\n\tstatus code: 403\n")
    assert client_log.complaint(log, error) == Sign("who: refused")
    log.write_text("x ERROR : who: WriteFileHandle: can't open for write without O_TRUNC\n")
    assert client_log.complaint(log, error) == Sign(), "a user's own mistake"
    log.write_text("x ERROR : Get http://me:secret@host/who: connection refused\n")
    assert client_log.complaint(log, error) == Sign("Get http://…@host/who: connection refused")
    log.write_text("x ERROR : who: refused\ny NOTICE: all is well\n")
    assert client_log.complaint(log, error) == Sign()
    log.write_text(
        "2026-11-21T14:58:06.0Z [INF] s3fs version 1.90\n"
        "2026-11-21T14:58:06.1Z [ERR] curl.cpp:RequestPerform(2363): HTTP response code 403,"
        " returning EPERM. Body Text: <?xml?>\n<Error>InvalidAccessKeyId</Error>\n"
        "2026-11-21T14:58:06.1Z [ERR] s3fs.cpp:list_bucket(2741): returns with an error.\n"
    )
    assert client_log.complaint(log, s3fs.ERROR) == Sign(
        "HTTP response code 403, returning EPERM. Body Text: <?xml?>"
    )
    log.write_text("x ERROR : who: refused\n")
    old = time.time() - 2 * client_log.RECENT_S
    os.utime(log, (old, old))
    assert client_log.complaint(log, error) == Sign()


def test_a_log_that_is_too_large_keeps_its_end(tmp_path: Path) -> None:
    log, small = tmp_path / "a.log", tmp_path / "b.log"
    small.write_text("few words\n")
    with log.open("a") as client:
        client.write("line\n" * 300_000 + "the end\n")
        client.flush()
        client_log.trim(tmp_path)
        client.write("and on\n")
    text = log.read_text()
    assert len(text) < 10_000
    assert text.startswith("… cut by the agent\nline\n")
    assert text.endswith("line\nthe end\nand on\n")
    assert small.read_text() == "few words\n"
