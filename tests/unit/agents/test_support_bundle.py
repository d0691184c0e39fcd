# SPDX-License-Identifier: Apache-2.0
"""The archive of a node with secrets in every place, with agents that answer, hang and are dead."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import overview, support_bundle, support_parts
from agents.agent import installed
from agents.errors import ConfigError
from agents.listeners import Answer, Route, bind_tcp, bind_unix, serving
from agents.mounts import LinuxMounts, MountFeatures
from agents.support_bundle import collect, write

AGENTS = installed()
#: By where it is planted.
SECRETS = {
    "password of a URL": "Url-pass.word-1",
    "option": "optionPassword77",
    "environment": "env%value&55",
    "token of the hub": "f00dfeed0123456789abcdef",
    "keytab": "deadbeefcafe0123456789",
    "token of a user": "eyUser-token.of_joe",
    "client secret": "c11ent+secret/44",
    "unfinished config": "written-in-the-wrong-place",
}


@pytest.fixture(autouse=True)
def no_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of the kernel are found out by trying: not here."""
    features = MountFeatures(open_tree=True, mount_setattr=True, beneath=True)
    monkeypatch.setattr(LinuxMounts, "features", lambda _: features)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Its configuration: valid, as far as a file with such things in it can be."""
    (tmp_path / "run/mounts/logs").mkdir(parents=True)
    tokens = tmp_path / "tokens/1000"
    tokens.mkdir(parents=True)
    (tokens / "eos.token").write_text(SECRETS["token of a user"])
    (tmp_path / "hub").write_text(f"{SECRETS['token of the hub']}\n")
    (tmp_path / "secret").write_text(SECRETS["client secret"])
    keytab = f"0 u:daemon g:daemon n:eos N:1 c:2 e:0 k:{SECRETS['keytab']}\n"
    (tmp_path / "eos.keytab").write_text(keytab)
    everything = "; ".join(SECRETS.values())
    lines = [f"level=info heard {everything}", f'{{"level": "error", "error": "{everything}"}}']
    (tmp_path / "run/mounts/logs/home.log").write_text("\n".join(lines) + "\n")
    (tmp_path / "run/holder.log").write_text("x" * (1 << 20) + f"\nTraceback {everything}\n")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
node: {{run_dir: {tmp_path}/run, state_dir: {tmp_path}/state}}
fuse_mounter:
  root: {tmp_path}/root
  mounts:
    - {{name: eos, driver: eosxd, path: eos, options: {{mgm: "root://mgm.example.org"}},
       credentials: {{sss_keytab: {tmp_path}/eos.keytab}}}}
  credentials:
    directory: {tmp_path}/tokens
    sources:
      - name: hub
        jupyterhub: {{url: "http://127.0.0.1:1/hub", token_file: {tmp_path}/hub}}
    providers:
      - {{name: iam, issuer: "https://iam.example.org", client_id: nodes,
         client_secret_file: {tmp_path}/secret}}
"""
    )
    return path


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def leaks(files: dict[str, str]) -> list[str]:
    return [
        f"{place} in {name}"
        for name, text in files.items()
        for place, secret in SECRETS.items()
        if secret in text or json.dumps(secret)[1:-1] in text
    ]


def test_secrets_stay_and_what_helps_comes_along(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {
        "ready": True,
        "mounts": [{"name": "eos", "cause": " ".join(SECRETS.values())}],
        "argv": ["rclone", "--password", SECRETS["option"]],
    }
    metrics = bind_tcp("127.0.0.1", 0, {"/metrics": lambda _: Answer(b"x 1\n")}, key="k")
    told: dict[str, object] = {**document, "metrics": metrics.where}
    shown: dict[str, Route] = {"/status.json": lambda _: Answer(json.dumps(told).encode())}
    monkeypatch.setattr(overview, "_TIMEOUT_S", 0.2)
    over = threading.Event()

    def hang(_: object) -> Answer:
        over.wait(20)
        return Answer(b"")

    # The words of files and of the configuration are known; these look like what they are.
    (tmp_path / "run/up.log").write_text(
        f"GET https://joe:{SECRETS['password of a URL']}@files.example.org/\n"
        f"mount -o password={SECRETS['option']},vers=3 FAILED\n"
        f"AWS_SECRET_ACCESS_KEY={SECRETS['environment']}\n"
        f"secret: {SECRETS['unfinished config']}\n"
    )
    known = ("token of the hub", "keytab", "token of a user", "client secret")
    texts = " ".join(SECRETS[name] for name in known)
    told["mounts"] = [{"name": "eos", "cause": f"it said {texts}"}]
    for log in ("mounts/logs/home.log", "holder.log"):
        file = tmp_path / "run" / log
        for name in SECRETS.keys() - set(known):
            file.write_text(file.read_text().replace(SECRETS[name], ""))
    run = tmp_path / "run"
    with (
        serving(bind_unix(run / "mounts.sock", shown), metrics),
        serving(bind_unix(run / "gpu.sock", {"/status.json": hang})),
    ):
        path, missing = write(AGENTS, node, tmp_path / "bundle.tgz")
        over.set()
    files = unpacked(path)
    assert leaks(files) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(files["status/fuse_mounter.json"])["mounts"][0]["name"] == "eos"
    assert files["metrics/fuse_mounter.txt"] == "x 1\n"
    assert "home.log" in "".join(files), "each log by its name"
    assert "mgm.example.org" in files["config.json"]
    assert str(tmp_path / "eos.keytab") in files["config.json"], "names of files stay"
    assert "Linux" in json.loads(files["about.json"])["kernel"]
    assert json.loads(files["kernel.json"])["files"]["/proc/version"]
    assert "Traceback" in files["errors.txt"]
    assert "does not answer: timed out" in files["not-collected.txt"]
    assert "status/lxcfs_helper.json: Unavailable: not running" in files["not-collected.txt"]
    assert missing == files["not-collected.txt"].count("\n")
    assert len(files["logs/holder.log"]) <= 256 << 10


def test_a_configuration_that_is_wrong_is_told_without_its_secrets(
    node: Path, tmp_path: Path
) -> None:
    node.write_text(
        node.read_text()
        + f"""
  mounts_:
    - {{name: files, source: "https://joe:{SECRETS["password of a URL"]}@files.example.org/",
       options: ["password={SECRETS["option"]}", "--token", "{SECRETS["unfinished config"]}"],
       environment: {{HOME: "{SECRETS["environment"]}"}}, password: "{SECRETS["client secret"]}"}}
"""
    )
    log = f"it read {SECRETS['environment']} and {SECRETS['client secret']}\n"
    (tmp_path / "run/mounts/logs/home.log").write_text(log)
    (tmp_path / "run/holder.log").unlink()
    files = unpacked(write(AGENTS, node, tmp_path / "bundle.tgz")[0])
    assert leaks(files) == []
    assert "config.yaml: it is wrong" in files["not-collected.txt"]
    assert "files.example.org" in files["config.json"]


def test_what_is_no_yaml_is_not_taken_along(node: Path, tmp_path: Path) -> None:
    node.write_text(f"password: [{SECRETS['option']}\n")
    files = unpacked(write(AGENTS, node, tmp_path / "bundle.tgz")[0])
    assert "config.yaml: it is no YAML" in files["not-collected.txt"]
    assert leaks({name: text for name, text in files.items() if name != "x"}) == []
    with pytest.raises(ConfigError, match="cannot read"):
        write(AGENTS, tmp_path / "nowhere", tmp_path / "bundle.tgz")


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_part_that_hangs_or_fails_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, released: threading.Event, tmp_path: Path
) -> None:
    def hang(_: object) -> dict[str, object]:
        released.wait(30)
        return {}

    def fail(_: object) -> dict[str, object]:
        raise ValueError(f"password={SECRETS['option']}")

    parts = {
        "hangs": hang,
        "fails": fail,
        "huge": lambda _: {"": "x" * (support_bundle.LONGEST_PART * 2)},
        "good": lambda _: {"a": "1", "b": {"c": 2}},
    }
    monkeypatch.setattr(support_parts, "PARTS", parts)
    monkeypatch.setattr(support_bundle, "_PART_S", 0.2)
    began = time.monotonic()
    found = collect(support_parts.Subject((), support_parts.subject((), None).node))
    assert time.monotonic() - began < 20
    assert "hangs: no answer within 0.2 s" in found.missing
    assert "fails: ValueError: password=(removed)" in found.missing
    assert len(found.files["huge"]) == support_bundle.LONGEST_PART
    assert (found.files["good/a"], json.loads(found.files["good/b"])) == ("1", {"c": 2})


def test_all_of_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        support_parts, "PARTS", {f"part{n}": lambda _: {"": "x" * 1000} for n in range(9)}
    )
    monkeypatch.setattr(support_bundle, "LONGEST_ALL", 3500)
    found = collect(support_parts.Subject((), support_parts.subject((), None).node))
    assert sum(len(text) for name, text in found.files.items() if "part" in name) == 3500
    assert "part8: no room was left for it" in found.missing


def test_it_goes_to_the_standard_output_as_well(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(support_parts, "PARTS", {"good": lambda _: {"": "1"}})
    write((), None, Path("-"))
    with tarfile.open(fileobj=io.BytesIO(capfdbinary.readouterr().out)) as archive:
        assert any(name.endswith("/good") for name in archive.getnames())
