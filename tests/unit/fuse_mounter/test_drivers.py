# SPDX-License-Identifier: Apache-2.0
"""What each driver starts, and what it refuses to start with."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import fuse_mounter.drivers
from agents import hostfs
from agents.config import parse
from agents.errors import ConfigError
from agents.hostfs import HostFs
from fuse_mounter.config import MounterConfig
from fuse_mounter.drivers.base import Launch, MountBase, private_name
from fuse_mounter.drivers.reach import Reach
from fuse_mounter.drivers.registry import DRIVERS, driver_of

STAGING = Path("/run/nodeshare/mounts/staging/far@0123abcd.1")
SSHFS = {
    "driver": "sshfs",
    "source": "me@host:/data",
    "credentials": {"identity_file": "/etc/key", "known_hosts": "/etc/known"},
}
RCLONE = {"driver": "rclone", "source": "s3:b", "credentials": {"config": "/etc/rclone.conf"}}
S3FS = {"driver": "s3fs", "source": "b:/p", "credentials": {"passwd_file": "/etc/s3"}}
MOUNT_S3 = {"driver": "mount-s3", "source": "bucket"}
XROOTD = {"driver": "xrootd", "source": "root://host//data"}
CVMFS = {"driver": "cvmfs", "source": "atlas.cern.ch"}
EOSXD = {"driver": "eosxd", "options": {"mgm": "root://eos.example.org"}}
NFS = {"driver": "nfs", "source": "server:/export"}
COMMAND = {"driver": "command", "command": ["bindfs", "-f", "/srv", "{mountpoint}", "-o", "{ro}"]}
REMOTE: list[dict[str, Any]] = [SSHFS, RCLONE, S3FS, MOUNT_S3, XROOTD, CVMFS, EOSXD, NFS, COMMAND]


def mount(entry: dict[str, Any], **changed: Any) -> MountBase:
    whole = {"name": "far", "path": "far", **entry, **changed}
    text = yaml.safe_dump({"fuse_mounter": {"mounts": [whole]}})
    section = parse(text, {"fuse_mounter": MounterConfig}).sections["fuse_mounter"]
    assert isinstance(section, MounterConfig)
    return section.mounts[0]


def launch(entry: dict[str, Any], **changed: Any) -> Launch:
    made = mount(entry, **changed)
    return driver_of(made).launch(made, STAGING, HostFs())


def options(launched: Launch) -> list[str]:
    """The words of its `-o`."""
    return launched.argv[launched.argv.index("-o") + 1].split(",")


def test_every_driver_can_be_configured() -> None:
    names = {str(entry["driver"]) for entry in REMOTE} | {"bind", "passthrough"}
    assert names == set(DRIVERS)


@pytest.mark.parametrize("entry", REMOTE, ids=lambda entry: entry["driver"])
def test_a_client_mounts_at_the_place_it_is_given_and_nowhere_else(entry: dict[str, Any]) -> None:
    if not driver_of(mount(entry)).has_client:
        return
    launched = launch(entry)
    assert str(STAGING) in launched.argv
    assert launched.files.keys() <= {*driver_of(mount(entry)).written(STAGING)}, "else it stays"
    assert all(path.is_absolute() for path in launched.files)


@pytest.mark.parametrize("entry", REMOTE, ids=lambda entry: entry["driver"])
def test_what_needs_another_client_changes_the_digest(entry: dict[str, Any]) -> None:
    plain = mount(entry)
    assert plain.digest == mount(entry, name="other", path="elsewhere").digest
    assert plain.digest != mount(entry, read_only=True).digest


def test_the_documentation_names_every_driver_and_its_examples_are_valid() -> None:
    text = (Path(fuse_mounter.drivers.__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|(?: [^|]+ \|){4}$", text, re.MULTILINE)
    assert set(rows) == set(DRIVERS)
    shown = [
        entry
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        for entry in yaml.safe_load(block)
    ]
    assert {str(entry["driver"]) for entry in shown} >= set(DRIVERS) - {"bind", "passthrough"}
    for entry in shown:
        assert mount(entry).name == entry["name"]


def test_sshfs() -> None:
    launched = launch(SSHFS, read_only=True, options={"ServerAliveInterval": 5, "reconnect": True})
    assert launched.argv[:4] == ("sshfs", "me@host:/data", str(STAGING), "-f")
    words = options(launched)
    assert {"IdentityFile=/etc/key", "UserKnownHostsFile=/etc/known", "ro"} <= set(words)
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes", "reconnect"} <= set(words)
    assert [word for word in words if word.startswith("ServerAliveInterval")] == [
        "ServerAliveInterval=5"
    ]
    assert "ro" not in options(launch(SSHFS))


def test_rclone() -> None:
    launched = launch(RCLONE, options={"vfs-cache-mode": "full", "no-modtime": True})
    assert launched.argv[:4] == ("rclone", "mount", "s3:b", str(STAGING))
    assert {"--config=/etc/rclone.conf", "--vfs-cache-mode=full", "--no-modtime"} <= set(
        launched.argv
    )
    assert "--read-only" not in launched.argv
    assert "--read-only" in launch(RCLONE, read_only=True).argv


def test_s3fs() -> None:
    launched = launch(S3FS, options={"url": "http://127.0.0.1:9000"})
    assert launched.argv[:4] == ("s3fs", "b:/p", str(STAGING), "-f")
    assert {"passwd_file=/etc/s3", "url=http://127.0.0.1:9000", "allow_other"} <= set(
        options(launched)
    )
    assert "sigv4" in options(launched)
    assert "sigv4" not in options(launch(S3FS, options={"sigv2": True}))


def test_mount_s3() -> None:
    credentials = {"shared_file": "/etc/aws", "profile": "lab"}
    launched = launch(MOUNT_S3, credentials=credentials, options={"region": "eu-north-1"})
    assert launched.argv[:3] == ("mount-s3", "bucket", str(STAGING))
    assert {"--foreground", "--region=eu-north-1"} <= set(launched.argv)
    assert launched.environment == {
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/aws",
        "AWS_PROFILE": "lab",
    }
    assert launch(MOUNT_S3).environment == {}


def test_xrootd() -> None:
    credentials = {"sss_keytab": "/etc/key", "bearer_token_file": "/etc/token"}
    launched = launch(XROOTD, credentials=credentials, xrdcl={"RequestTimeout": 30})
    assert launched.argv[:3] == ("xrootdfs", str(STAGING), "-f")
    assert {"rdr=root://host//data", "uid=daemon", "sss=/etc/key"} <= set(options(launched))
    assert launched.environment == {
        "XRD_REQUESTTIMEOUT": "30",
        "BEARER_TOKEN_FILE": "/etc/token",
    }
    assert not any(word.startswith("sss") for word in options(launch(XROOTD)))


def test_cvmfs() -> None:
    launched = launch(CVMFS, base="/etc/cvmfs/default.conf", parameters={"CVMFS_HTTP_PROXY": "a|b"})
    ((written, text),) = launched.files.items()
    assert text == "CVMFS_HTTP_PROXY='a|b'\n"
    assert f"config=/etc/cvmfs/default.conf:{written}" in options(launched)
    assert launched.argv[-2:] == ("atlas.cern.ch", str(STAGING))


def test_eosxd_reads_strict_json_of_keys_that_it_knows() -> None:
    launched = launch(
        EOSXD,
        credentials={"sss_keytab": "/etc/eos.keytab"},
        options={
            "mgm": "root://eos.example.org:1094/",
            "remote_path": "/eos/lab/",
            "client": {"options": {"hide-versions": 0}, "cache": {"size-mb": 512}},
        },
    )
    ((written, text),) = launched.files.items()
    instance = private_name(STAGING)
    assert instance.startswith("far-0123abcd.1-")
    assert written == hostfs.EOS_CONFIGURATION / f"fuse.{instance}.conf"
    assert launched.argv[1:] == (f"-ofsname={instance}", "-f", str(STAGING))
    assert json.loads(text) == {
        "name": instance,
        "hostport": "eos.example.org:1094",
        "remotemountdir": "/eos/lab/",
        "localmountdir": str(STAGING),
        "options": {"hide-versions": 0, "jsonstats": 1},
        "statfilepath": "/run/nodeshare/mounts/clients/far@0123abcd.1.stats",
        "auth": {
            "shared-mount": 1,
            "ssskeytab": "/etc/eos.keytab",
            "credential-store": f"/var/cache/eos/fusex/nodeshare/{instance}/credential-store/",
        },
        "cache": {
            "type": "disk",
            "size-mb": 512,
            "location": f"/var/cache/eos/fusex/nodeshare/{instance}/cache/",
            "journal": f"/var/cache/eos/fusex/nodeshare/{instance}/journal/",
        },
    }
    own = hostfs.EOS_CACHES / instance
    assert {own / "cache", own / "journal", own / "credential-store"} <= {*launched.directories}
    assert launched.end_limit_s == 130, "it may still have to send what was written"


def test_command() -> None:
    assert launch(COMMAND).argv == ("bindfs", "-f", "/srv", str(STAGING), "-o", "rw")
    assert launch(COMMAND, read_only=True).argv[-1] == "ro"


@pytest.mark.parametrize(
    ("entry", "changed", "problem"),
    [
        (SSHFS, {"options": {"password": "x"}}, "'password' would show a secret"),
        (S3FS, {"options": {"secret_access-key": "x"}}, "would show a secret"),
        (RCLONE, {"options": {"s3-access-key-id": "x"}}, "would show a secret"),
        (RCLONE, {"options": {"a b": "x"}}, "'a b' is not the name of an option"),
        (S3FS, {"options": {"url": "a,allow_root"}}, "has a comma"),
        (S3FS, {"options": {"url": "http://me:pw@host"}}, "holds a password in a URL"),
        (SSHFS, {"source": "-oProxyCommand=sh"}, "is not a source"),
        (XROOTD, {"source": "root://me:pw@host//data"}, "holds a password in a URL"),
        (XROOTD, {"source": "root://host//data?authz=Bearer%20x"}, "a header with a secret"),
        (SSHFS, {"source": "me:pw@host:/data"}, "password in the source"),
        (RCLONE, {"source": ":s3,access_key_id=A,secret_access_key=B:b"}, "holds a secret"),
        (RCLONE, {"options": {"header": "Authorization: Basic x"}}, "a header with a secret"),
        (RCLONE, {"options": {"crypt-password2": "x"}}, "would show a secret"),
        (RCLONE, {"options": {"azureblob-key": "x"}}, "would show a secret"),
        (RCLONE, {"options": {"config": "/x"}}, "'config': write credentials.config"),
        (RCLONE, {"options": {"daemon": True}}, "'daemon': leave it out"),
        (S3FS, {"options": {"url": "https://token@host"}}, "holds a password in a URL"),
        (S3FS, {"options": {"ro": True}}, "'ro': write read_only beside driver"),
        (MOUNT_S3, {"options": {"read-only": True}}, "'read-only': write read_only"),
        (SSHFS, {"options": {"StrictHostKeyChecking": "no"}}, "the server's key is always"),
        (SSHFS, {"options": {"ServerAliveInterval": "1m"}}, "'1m' is not a number"),
        (EOSXD, {"options": {"mgm": "eos", "client": {"cache": {"size-mb": math.nan}}}}, "nan is"),
        (XROOTD, {"source": "host:/data"}, "is not a URL such as root://host//directory"),
        (XROOTD, {"xrdcl": {"Timeout": 1}}, "'Timeout' is none of"),
        (CVMFS, {"parameters": {"HTTP_PROXY": "x"}}, "they begin with CVMFS_"),
        (CVMFS, {"parameters": {"CVMFS_X": "a'b"}}, "has a quote"),
        (COMMAND, {"command": ["bindfs", "/srv"]}, "no word has {mountpoint}"),
        (COMMAND, {"command": ["x", "--token=1", "{mountpoint}"]}, "holds a secret ('token')"),
        (COMMAND, {"command": ["x", "-opass=1", "{mountpoint}"]}, "holds a secret ('pass')"),
        (COMMAND, {"command": ["x", "--token", "1", "{mountpoint}"]}, "'--token' would show"),
        (COMMAND, {"command": ["x", "{mountpoint}", "http://h?sig=1"]}, "holds a secret ('sig')"),
        (COMMAND, {"environment": {"RCLONE_CONFIG_PASS": "x"}}, "'RCLONE_CONFIG_PASS' holds"),
        (COMMAND, {"environment": {"URL": "ftp://me:pw@host"}}, "'URL' holds a secret"),
        (EOSXD, {"options": {"mgm": "http://eos/"}}, "is not a server such as root://"),
        (EOSXD, {"options": {"mgm": "eos", "remote_path": "eos"}}, "not an absolute path of EOS"),
    ],
)
def test_what_is_refused(entry: dict[str, Any], changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mount(entry, **changed)
    assert problem in str(refused.value)


def test_what_only_looks_like_a_secret_may_be_named() -> None:
    for source in ("there:me@example.org/cookie", "there:token/bearer", "there:key"):
        assert source in launch(RCLONE, source=source).argv
    assert "--client-key=/etc/key" in launch(RCLONE, options={"client-key": "/etc/key"}).argv
    words = ["x", "{mountpoint}", "--tls-key", "/etc/key", "-o", "key_file=/etc/other"]
    assert launch(COMMAND, command=words).argv[2:] == tuple(words[2:])
    environment = {"BEARER_TOKEN_FILE": "/etc/token", "OAUTH2_TOKEN": "FILE:/etc/token"}
    assert launch(COMMAND, environment=environment).environment == environment


@pytest.mark.parametrize(
    ("client", "problem"),
    [
        ({"bind": {}}, "bind: eosxd does not read this key"),
        ({"rm-rf-protect-levels": 2}, "it belongs to options"),
        ({"options": {"hide-version": 0}}, "did you mean 'hide-versions'?"),
        ({"options": {"krb5": 0}}, "it belongs to auth"),
        ({"options": 1}, "is not a mapping"),
        ({"options": {"hide-versions": "0"}}, "options.hide-versions: '0' is not a number"),
        ({"options": {"overlay-mode": 777}}, "is not a text; put it in quotes"),
        ({"options": {"overlay-mode": "rwx"}}, "is an octal mode in quotes"),
        ({"options": {"no-fsync": ".db"}}, "'.db' is not a list of texts"),
        ({"cache": {"type": "tape"}}, "is none of disk, memory"),
        ({"cache": {"location": "/x"}}, "every client has its own"),
        ({"auth": {"ssskeytab": "/x"}}, "write credentials.sss_keytab"),
        ({"auth": {"gsi-first": 1}}, "never looks for ztn's tokens; say ztn: 0"),
        ({"encryptionkey": "abc"}, "write credentials.encryption_key"),
        ({"hostport": "eos"}, "write options.mgm"),
        ({"appname": "a&b"}, "has no '&'"),
        ({"mdzmqtarget": "eos:1100"}, "is such as tcp://eos.example.org:1100"),
        ({"options": {"appname": "a"}}, "it belongs above the sections"),
    ],
)
def test_keys_that_eosxd_would_ignore_or_stumble_over_are_refused(
    client: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        mount(EOSXD, options={"mgm": "eos", "client": client})
    assert problem in str(refused.value)


def preflight(entry: dict[str, Any], host: HostFs | None = None, **changed: Any) -> str:
    made = mount(entry, **changed)
    return str(driver_of(made).preflight(made, host or HostFs()) or "")


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a server."""
    monkeypatch.setattr(Reach, "problem", lambda *_: None)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search path with these programs, and a host with a FUSE device."""
    for name in ("sshfs", "rclone", "fusermount3", "s3fs", "mount-s3", "xrootdfs", "cvmfs2"):
        (tmp_path / name).touch(mode=0o755)
    for name in ("eosxd3", "mount.nfs", "bindfs"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "fuse").touch()
    return tmp_path


@pytest.mark.parametrize("entry", REMOTE, ids=lambda entry: entry["driver"])
def test_a_program_that_is_missing_is_named_with_its_package(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "fuse").touch()
    problem = preflight(entry, HostFs(dev=tmp_path))
    assert problem.startswith("no program")
    assert "install" in problem


@pytest.mark.parametrize("entry", [SSHFS, RCLONE, XROOTD, CVMFS, COMMAND])
def test_without_the_device_there_is_no_fuse(entry: dict[str, Any], programs: Path) -> None:
    (programs / "fuse").unlink()
    assert "fuse' is missing; load the kernel module" in preflight(entry, HostFs(dev=programs))


def test_a_key_that_others_may_read_is_refused_as_its_client_would(programs: Path) -> None:
    key, host = programs / "key", HostFs(dev=programs)
    changed = {"credentials": {"passwd_file": str(key)}}
    assert "cannot be read: No such file" in preflight(S3FS, host, **changed)
    key.mkdir()
    assert "is not a file" in preflight(S3FS, host, **changed)
    key.rmdir()
    key.touch(mode=0o644)
    assert f"others may read it; chmod 0400 {key}" in preflight(S3FS, host, **changed)
    key.chmod(0o400)
    assert preflight(S3FS, host, **changed) == ""


def test_a_key_of_another_user_is_refused_as_its_client_would(programs: Path) -> None:
    key, host = programs / "key", HostFs(dev=programs)
    key.touch(mode=0o400)
    changed = {"credentials": {"sss_keytab": str(key)}, "user": "daemon"}
    problem = preflight(XROOTD, host, **changed)
    assert f"belongs to uid {os.geteuid()}, not to 'daemon'; chown daemon {key}" in problem
    assert "there is no user 'nobody-at-all'" in preflight(
        XROOTD, host, **{**changed, "user": "nobody-at-all"}
    )


def test_a_default_keytab_that_is_missing_is_no_mere_warning(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostFs(dev=programs)
    monkeypatch.setattr(hostfs, "FUSE3_HELPER", programs / "fusermount3")
    monkeypatch.setattr(hostfs, "EOS_KEYTAB", programs / "keytab")
    assert "eosxd would turn off sss and oauth2" in preflight(EOSXD, host)
    off = {"mgm": "eos", "client": {"auth": {"sss": 0, "oauth2": 0}}}
    assert preflight(EOSXD, host, options=off) == ""
    (programs / "keytab").touch(mode=0o444)
    assert "the default keytab" in preflight(EOSXD, host)
    (programs / "keytab").chmod(0o400)
    assert preflight(EOSXD, host) == ""
    named = {"credentials": {"sss_keytab": str(programs / "none")}}
    assert "credentials.sss_keytab" in preflight(EOSXD, host, **named), "it would fail much later"
    key = programs / "encryption"
    secret = {"credentials": {"encryption_key": str(key)}}
    assert "credentials.encryption_key" in preflight(EOSXD, host, **secret)
    key.write_text("the-key\n")
    key.chmod(0o400)
    assert preflight(EOSXD, host, **secret) == ""
    ((_, text),) = launch(EOSXD, **secret).files.items()
    assert json.loads(text)["encryptionkey"] == "the-key"
    (programs / "fusermount3").chmod(0o644)
    assert "cannot be executed; install fuse3" in preflight(EOSXD, host)
    (programs / "eosxd3").rename(programs / "eosxd")
    monkeypatch.setattr(hostfs, "FUSE2_HELPER", programs / "fusermount")
    assert "fusermount' cannot be executed" in preflight(EOSXD, host), "it wants the other one"


def test_eosxd_has_to_see_who_asks(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostfs, "FUSE3_HELPER", programs / "fusermount3")
    monkeypatch.setattr(hostfs, "EOS_KEYTAB", programs / "keytab")
    (programs / "keytab").touch(mode=0o400)
    monkeypatch.setattr(hostfs, "EOS_LOCKS", programs / "run/eos")
    host = HostFs(dev=programs, proc=programs)
    own, first = (programs / str(pid) / "ns" for pid in (os.getpid(), 1))
    for place in (own, first):
        place.mkdir(parents=True)
        (place / "pid").touch()
        (place / "net").touch()
    without = {"mgm": "eos", "client": {"auth": {"sss": 0, "oauth2": 0}}}
    assert "hostPID: true" in preflight(EOSXD, host)

    (first / "pid").unlink()
    (first / "pid").hardlink_to(own / "pid")
    assert "hostNetwork: true" in preflight(EOSXD, host)
    assert "hostNetwork" not in preflight(EOSXD, host, options=without), "no key, no address"

    (first / "net").unlink()
    (first / "net").hardlink_to(own / "net")
    (programs / "1/root").mkdir()
    assert "another eosxd would not see our locks" in preflight(EOSXD, host)
    (programs / "1/root").rmdir()
    (programs / "1/root").symlink_to("/")
    assert preflight(EOSXD, host) == ""

    (programs / "sys/fs").mkdir(parents=True)
    (programs / "sys/fs/nr_open").write_text("1024\n")
    assert "sysctl -w fs.nr_open=524288" in preflight(EOSXD, host)
    fewer = {"mgm": "eos", "client": {"options": {"fd-limit": 1000}}}
    assert preflight(EOSXD, host, options=fewer) == ""


def test_a_keytab_that_eosxd_would_not_look_at_is_refused() -> None:
    options = {"mgm": "eos", "client": {"auth": {"sss": 0}}}
    with pytest.raises(ConfigError, match="tokens need it too"):
        mount(EOSXD, options=options, credentials={"sss_keytab": "/etc/key"})


def test_the_server_of_a_mount_is_named_without_user_and_port() -> None:
    def server(entry: dict[str, Any], **changed: Any) -> str | None:
        made = mount(entry, **changed)
        return driver_of(made).server(made)

    assert server(SSHFS) == "host"
    assert server(NFS) == "server"
    assert server(NFS, source="[fe80::1]:/export") == "fe80::1"
    assert server(XROOTD, source="roots://Host.example.org:1094//data") == "host.example.org"
    assert server(EOSXD) == "eos.example.org"
    assert server(S3FS, options={"url": "http://127.0.0.1:9000"}) == "127.0.0.1"
    assert server(S3FS) == server(MOUNT_S3) == "s3.amazonaws.com"
    assert server(COMMAND) is server(RCLONE) is server(CVMFS) is None
