# SPDX-License-Identifier: Apache-2.0
"""Secrets are taken out of whatever leaves the machine, and the rest stays readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.redaction import REMOVED, Redactor, secrets_in

SECRET = "hunter2/with+odd=letters"


@pytest.mark.parametrize(
    "text",
    [
        "password=§",
        "PASSWORD: §",
        "-o user=joe,password=§,vers=3.1.1",
        "--password § --verbose",
        "https://joe:§@files.example.org/x",
        "https://§@files.example.org/x",
        "joe:§@files.example.org:/export",
        "Authorization: Bearer §",
        "authorization: Basic §",
        "Cookie: a=1; session=§",
        "X-Auth-Token: §",
        "https://s3.example.org/b?X-Amz-Signature=§&part=1",
        '{"client_secret": "§", "name": "x"}',
        "AWS_SECRET_ACCESS_KEY=§",
        "aws_secret_access_key = §",
        "refresh_token='S'",
        "api-key: §",
        "0 u:daemon g:daemon n:eos N:1 c:2 e:0 k:0123456789abcdef0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "zteos64:MDAwMDAw+abc/=",
        "key AKIAIOSFODNN7EXAMPLE used",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKCAQ\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIEow\ncut off",
    ],
)
def test_what_looks_like_a_secret_goes(text: str) -> None:
    secret = SECRET if "@" not in text else "hunter2with+odd=letters"
    shown = Redactor().text(text.replace("§", secret))
    assert "hunter2" not in shown
    for word in ("0123456789abcdef", "eyJ", "MDAwMDAw", "AKIAIO", "MIIEow", "IBAAKCAQ"):
        assert word not in shown
    assert REMOVED in shown


@pytest.mark.parametrize(
    "text",
    [
        "the tokens of users in '/run/nodeshare/credentials'",
        "mount state mount=home state=published cause=",
        "root://eos.example.org//eos/user",
        "sss_keytab: /etc/eos/fuse.sss.keytab",
        'nodeshare_gpu_units{resource="nodeshare/gpu-memory"} 31',
        "2026-11-21T17:00:00Z agent started",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert Redactor(["unrelated-secret"]).text(text) == text


def test_a_file_that_is_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keytab"
    file.touch()
    assert Redactor().document({"token": str(file)}) == {"token": str(file)}
    assert Redactor().document({"token": "/not/there"}) == {"token": REMOVED}
    assert Redactor().text(f"token={file}") == f"token={file}"


def test_known_secrets_go_wherever_they_are_and_in_whatever_form() -> None:
    known = 'a"b c/d&e'
    redactor = Redactor([known, "short"])
    for shown in (known, "a%22b%20c%2Fd%26e", json.dumps({"x": known})):
        assert REMOVED in redactor.text(f"<{shown}>")
    assert redactor.text("short") == "short", "a word of everybody"


def test_documents_go_by_the_names_of_their_keys() -> None:
    document = {
        "password": "x1",
        "pin": 3,
        "secret": 1234,
        "token_file": "/etc/t",
        "apiKey": "x2",
        "environment": {"HOME": "x3", "N": 4, "LIST": ["x4"]},
        "argv": ["--password", "x5", "--level", "debug", "--token=x6"],
        "tokens": [{"name": "eos", "users": 3}],
        "passwords": ["x7"],
        "nested": [{"client_secret": "x8"}],
        "keep": [True, None, 1.5, "text"],
    }
    shown = Redactor().document(document)
    flat = json.dumps(shown)
    for number in range(1, 9):
        assert f"x{number}" not in flat, number
    assert "1234" not in flat
    assert shown["pin"] == 3
    assert shown["token_file"] == "/etc/t"
    assert shown["argv"][2:4] == ["--level", "debug"]
    assert shown["tokens"] == [{"name": "eos", "users": 3}]
    assert shown["keep"] == [True, None, 1.5, "text"]


def test_what_was_taken_out_is_known_for_other_texts() -> None:
    found = set(secrets_in({"a": [{"password": "pw-one"}], "env": {"X": "pw-two"}, "b": "c"}))
    assert found == {"pw-one", "pw-two"}


@pytest.mark.parametrize(
    "piece",
    ["x", "a.", ",", "-eyJ", "x-", "pass", "password=", "://", "a:", " --a-", "eyJaaaaaaaa.", "k:0",
     "Authorization", "-----BEGIN PRIVATE KEY-----", " \t", "bearer ", "\"", "=", "joe:x@"],
)  # fmt: skip
def test_a_hostile_line_costs_no_more_than_its_length(piece: str) -> None:
    """It would take hours otherwise; the limit of time for a test is the bound."""
    Redactor(["known-secret"]).text(piece * ((1 << 19) // len(piece)))
