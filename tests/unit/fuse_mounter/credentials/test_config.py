# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import fuse_mounter.credentials
from fuse_mounter.credentials.config import Credentials
from fuse_mounter.credentials.proof import environment

PAGE = Path(fuse_mounter.credentials.__path__[0]) / "README.md"


def section(**changes: Any) -> dict[str, Any]:
    return {
        "sources": [{"name": "hub", "directory": "/run/hub"}],
        "providers": [{"name": "iam", "issuer": "https://iam.example.org/", "client_id": "hub"}],
        "tokens": [{"name": "eos", "source": "hub", "file": "t", "provider": "iam"}],
        **changes,
    }


def test_the_page_shows_what_is_accepted() -> None:
    shown = re.findall(r"```yaml\n(fuse_mounter:\n.*?)```", PAGE.read_text(), re.S)
    assert shown
    for text in shown:
        credentials = Credentials.model_validate(
            yaml.safe_load(text)["fuse_mounter"]["credentials"]
        )
        assert hash(credentials.tokens)


def test_the_page_tells_of_every_metric() -> None:
    source = (PAGE.parent / "metrics.py").read_text()
    names = set(re.findall(r'f"{name}_([a-z_]+)"', source))
    told = set(re.findall(r"nodeshare_mount_credential_([a-z_]+)", PAGE.read_text()))
    assert {name.removesuffix("_total") for name in told} == names


def test_what_a_pod_has_in_its_environment() -> None:
    eos = {"format": "eos", "endpoint": "iam.example.org/userinfo"}
    tokens = [{**section()["tokens"][0], **eos}]
    (token,) = Credentials.model_validate(section(tokens=tokens)).tokens
    assert environment(token, Path("/c/7")) == {"OAUTH2_TOKEN": "FILE:/c/7/t"}
    (token,) = Credentials.model_validate(section()).tokens
    assert environment(token, Path("/c/7")) == {"BEARER_TOKEN_FILE": "/c/7/t"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"directory": "/run"}, "too close to the root"),
        ({"sources": []}, "there is no source 'hub'; there are none"),
        ({"providers": []}, "there is no provider 'iam'"),
        ({"tokens": section()["tokens"] * 2}, "'eos' is there twice"),
        ({"sources": [{"name": "hub"}]}, "name one of directory and jupyterhub"),
        (
            {"providers": [{"name": "iam", "issuer": "http://iam.example.org", "client_id": "x"}]},
            "would send tokens in the clear",
        ),
        (
            {"providers": [{"name": "iam", "issuer": "https://u:p@iam", "client_id": "x"}]},
            "an address holds no user and no password",
        ),
        (
            {
                "sources": [
                    {"name": "hub", "directory": "/run/hub"},
                    {"name": "other", "directory": "/run/other"},
                ],
                "tokens": [
                    *section()["tokens"],
                    {"name": "b", "source": "other", "file": "b", "provider": "iam"},
                ],
            },
            "come from the sources hub, other; use one, or name the provider twice",
        ),
        ({"tokens": [{"name": "b", "source": "hub", "file": "../t"}]}, "is not the name of a file"),
        (
            {"tokens": [{"name": "b", "source": "hub", "file": "t", "audience": "eos"}]},
            "audience and scope are asked of a provider",
        ),
        (
            {"tokens": [{"name": "b", "source": "hub", "file": "t", "format": "eos"}]},
            "format eos needs an endpoint",
        ),
        (
            {
                "tokens": [
                    {
                        "name": "b",
                        "source": "hub",
                        "file": "t",
                        "prove": {"mount": "eos", "path": "../x"},
                    }
                ]
            },
            "must be a path below the mount",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(expected)):
        Credentials.model_validate(section(**changes))
