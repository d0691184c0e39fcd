# SPDX-License-Identifier: Apache-2.0
"""The chart as helm renders it, and overlays as kubectl does: real programs, on a copy of what they
read, and as nobody where we are root. `make test` fetches them (deploy/machine/chart-tools).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / "build/chart"
#: What PodMonitor, PrometheusRule and SecurityContextConstraints belong to.
EXTENSIONS = ("monitoring.coreos.com/v1", "security.openshift.io/v1")
_NOBODY = 65534
_LIMIT_S = 60

#: One object of Kubernetes.
Object = dict[str, Any]


class Refused(Exception):
    """What helm said instead of rendering."""


@dataclass(frozen=True, slots=True)
class Chart:
    """`deploy` is a copy of that folder, `home` nobody's."""

    deploy: Path
    home: Path
    _seen: dict[tuple[str, ...], list[Object]] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.deploy / "helm/nodeshare"

    def render(
        self,
        values: Mapping[str, Any] | Path | None = None,
        *,
        release: str = "nodeshare",
        namespace: str = "nodeshare",
        kubernetes: str | None = None,
        knows: Sequence[str] = EXTENSIONS,
        show: str | None = None,
    ) -> list[Object]:
        """All objects, in helm's order. Raises Refused."""
        argv = ["template", release, str(self.directory), "--namespace", namespace]
        argv += [part for one in knows for part in ("--api-versions", one)]
        argv += ["--kube-version", kubernetes] if kubernetes else []
        argv += ["--show-only", show] if show else []
        text = ""
        if isinstance(values, Path):
            argv += ["--values", str(values)]
        elif values is not None:
            argv, text = [*argv, "--values", "-"], json.dumps(values)
        key = (*argv, text)
        if key not in self._seen:
            output = self.helm(*argv, text=text)
            self._seen[key] = [one for one in yaml.load_all(output, _LOADER) if one]
        return deepcopy(self._seen[key])

    def altered(self, name: str, files: Mapping[str, str]) -> Chart:
        """Another one, in which these files of the chart say something else (or are new)."""
        deploy = self.deploy.parent / name
        shutil.copytree(self.deploy / "helm", deploy / "helm")
        found = Chart(deploy, self.home)
        for path, text in files.items():
            (found.directory / path).write_text(text)
            (found.directory / path).chmod(0o644)
        return found

    def helm(self, *argv: str, text: str = "") -> str:
        """What it prints. Raises Refused."""
        return _run([self.home / "helm", *argv], self.home, text)

    def kustomize(self, directory: str) -> list[Object]:
        """What `kubectl kustomize` makes of a folder of deploy/kustomize. Raises Refused."""
        program = self.home / "kubectl"
        if not program.exists():
            absent = TOOLS / "no-kubectl"
            if "CI" in os.environ or not absent.exists():
                pytest.fail("no kubectl: deploy/machine/chart-tools install")
            pytest.skip(absent.read_text().strip())
        key = ("kustomize", directory)
        if key not in self._seen:
            path = self.deploy / "kustomize" / directory
            output = _run([program, "kustomize", path], self.home)
            self._seen[key] = [one for one in yaml.load_all(output, _LOADER) if one]
        return deepcopy(self._seen[key])


#: Much faster, where libyaml is there.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _run(argv: Sequence[object], home: Path, text: str = "") -> str:
    # By a program: Python itself would fork for it, which gRPC in this process does not survive.
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
    done = subprocess.run(
        [*(nobody if os.geteuid() == 0 else ()), *(str(one) for one in argv)],
        input=text,
        env={"HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr)
    return str(done.stdout)


def prepared(place: Path) -> Iterator[Chart]:
    """A copy that nobody can read, below a directory that nobody can pass through."""
    assert (TOOLS / "helm").exists(), "helm is missing; run deploy/machine/chart-tools install"
    home = place / "home"
    home.mkdir()
    for name in ("helm", "kubectl"):
        if (TOOLS / name).exists():
            shutil.copy(TOOLS / name, home / name)
            (home / name).chmod(0o755)
    left_out = shutil.ignore_patterns("__pycache__")
    for part in ("helm", "kustomize", "grafana", "flux"):
        if (REPOSITORY / "deploy" / part).exists():
            shutil.copytree(REPOSITORY / "deploy" / part, place / "deploy" / part, ignore=left_out)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.parent == home else 0o644)
    if os.geteuid() == 0:
        os.chown(home, _NOBODY, _NOBODY)
    yield Chart(place / "deploy", home)
    shutil.rmtree(home)


def daemonsets(objects: list[Object]) -> dict[str, Object]:
    """By component."""
    return {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one
        for one in objects
        if one["kind"] == "DaemonSet"
    }


def pod(daemonset: Object) -> Object:
    spec: Object = daemonset["spec"]["template"]["spec"]
    return spec


def container(daemonset: Object) -> Object:
    """The agent."""
    spec = pod(daemonset)
    found: Object = (spec.get("initContainers") or spec["containers"])[0]
    return found


def config_of(objects: list[Object]) -> str:
    return next(
        str(one["data"]["nodeshare.yaml"])
        for one in objects
        if "nodeshare.yaml" in one.get("data", {})
    )
