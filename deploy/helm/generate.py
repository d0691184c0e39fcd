# SPDX-License-Identifier: Apache-2.0
"""Writes what the chart holds a copy of: the schema of the configuration (from our models) into
nodeshare/values.schema.json, rules and dashboards into nodeshare/files (Helm reads nothing outside
a chart, and links in one do not survive every way of delivering it: Flux leaves them out). And what
is a copy of the chart: the objects in ../kustomize, as helm renders them.

`--check` changes nothing and exits with 1 when something is not up to date.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from agents.agent import installed
from agents.config import NodeConfig, parse_duration, parse_size

_DEPLOY = Path(__file__).resolve().parent.parent
_CHART = Path(__file__).resolve().parent / "nodeshare"
_KUSTOMIZE = _DEPLOY / "kustomize"
_HELM = _DEPLOY.parent / "build/chart/helm"
_NOT_OF_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")
_COMPONENT = "app.kubernetes.io/component"
_GENERATED = """\
# SPDX-License-Identifier: Apache-2.0
# Generated from the chart (make chart); change it there.
"""
_NUMBER = r"[0-9]{1,18}(\.[0-9]{1,9})?"
#: Text with a unit, or 0, which needs none.
_WITH_UNIT: dict[Any, JsonSchemaValue] = {
    parse_duration: {"pattern": rf"^{_NUMBER}(ms|s|m|h|d)$"},
    parse_size: {"pattern": rf"^{_NUMBER} *(B|KiB|MiB|GiB|TiB)$"},
}


class _Generator(GenerateJsonSchema):
    """As people write it: before our own functions have made of it what the models hold."""

    def function_before_schema(self, schema: Any) -> JsonSchemaValue:
        pattern = _WITH_UNIT.get(schema["function"]["function"])
        if pattern is None:
            return {}  # whatever that function takes; the agent says what is wrong with it
        return {"type": ["string", "integer"], **pattern, "minimum": 0, "maximum": 0}

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        """By its tag, so that an error is about the kind that was meant, and not about all."""
        tag = schema["discriminator"]
        kinds = {name: self.generate_inner(one) for name, one in schema["choices"].items()}
        return {
            "type": "object",
            "required": [tag],
            "properties": {tag: {"enum": sorted(kinds)}},
            "allOf": [
                {"if": {"properties": {tag: {"const": name}}, "required": [tag]}, "then": one}
                for name, one in sorted(kinds.items())
            ],
        }


def definitions() -> dict[str, Any]:
    """The sections of the configuration by name, and what they refer to."""
    models = {"node": NodeConfig, **{agent.section: agent.model for agent in installed()}}
    found: dict[str, Any] = {}
    for section, model in sorted(models.items()):
        schema = model.model_json_schema(
            schema_generator=_Generator, ref_template=f"#/definitions/{section}.{{model}}"
        )
        for name, one in schema.pop("$defs", {}).items():
            found[f"{section}.{name}"] = _bare(one)
        found[section] = _bare(schema)
    return dict(sorted(found.items()))


def _bare(schema: Any, *, names: bool = False) -> Any:
    """Without what is of no use here. `names`: the keys are somebody's, no words of JSON Schema."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    left_out = () if names else ("title", "default", "description", "format", "discriminator")
    return {
        key: _bare(value, names=key == "properties" and not names)
        for key, value in schema.items()
        if key not in left_out
    }


def wanted() -> dict[Path, str | None]:
    """What each generated file holds; None: it shall not be there."""
    path = _CHART / "values.schema.json"
    schema = json.loads(path.read_text())
    schema["definitions"] = definitions()
    found: dict[Path, str | None] = {path: json.dumps(schema, indent=1) + "\n"}
    files = _CHART / "files"
    found |= dict.fromkeys((one for one in files.rglob("*") if one.is_file()), None)
    found[files / "rules.yaml"] = (_DEPLOY / "prometheus/rules.yaml").read_text()
    for dashboard in sorted((_DEPLOY / "grafana").glob("*.json")):
        found[files / "dashboards" / dashboard.name] = dashboard.read_text()
    return found


def kustomize() -> dict[Path, str]:
    """What is rendered by the chart for `kubectl apply -k`."""
    found: dict[Path, str] = {}
    objects = list(_rendered())
    for component in ("gpu", "mounts", "view", "holder"):
        own = [one for one in objects if one["metadata"]["labels"].get(_COMPONENT) == component]
        found[_KUSTOMIZE / f"base/{component}.yaml"] = _text(own)
    config = next(one for one in objects if one["kind"] == "ConfigMap")["data"]
    found |= {_KUSTOMIZE / "base" / name: _GENERATED + text for name, text in config.items()}
    rights = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    objects = list(_rendered("apiServer.enabled=true"))
    found[_KUSTOMIZE / "api-server/rbac.yaml"] = _text(
        one for one in objects if one["kind"] in rights
    )
    objects = list(
        _rendered("monitoring.podMonitor.enabled=true", "monitoring.prometheusRule.enabled=true")
    )
    found[_KUSTOMIZE / "monitoring/monitors.yaml"] = _text(
        one for one in objects if one["kind"] in ("PodMonitor", "PrometheusRule")
    )
    return found


def _rendered(*values: str) -> Iterator[dict[str, Any]]:
    argv = [str(_HELM), "template", "nodeshare", str(_CHART), "--namespace", "nodeshare"]
    argv += ["--api-versions", "monitoring.coreos.com/v1"]
    argv += [part for value in values for part in ("--set", value)]
    for one in yaml.safe_load_all(subprocess.check_output(argv, timeout=60)):
        for labels in _labels(one):
            for key in _NOT_OF_HELM:
                labels.pop(key, None)
        # A digest of the values, which here are files that people patch.
        _template(one).get("metadata", {}).get("annotations", {}).pop("checksum/config", None)
        yield one


def _template(one: dict[str, Any]) -> dict[str, Any]:
    return dict(one.get("spec", {}).get("template") or {})


def _labels(one: dict[str, Any]) -> Iterator[dict[str, str]]:
    yield one["metadata"].get("labels", {})
    yield _template(one).get("metadata", {}).get("labels", {})


def _text(objects: Iterable[dict[str, Any]]) -> str:
    return _GENERATED + yaml.safe_dump_all(objects, sort_keys=False, width=120)


def stale(files: dict[Path, str | None]) -> list[Path]:
    """Those that do not hold what they should."""
    return [
        path
        for path, text in files.items()
        if (path.read_text() if path.exists() else None) != text
    ]


def main() -> int:
    if "--check" in sys.argv[1:]:
        changed = [*stale(wanted()), *stale({**kustomize()})]
        for path in changed:
            print(f"{path} is not up to date; run make chart", file=sys.stderr)
        return 1 if changed else 0
    _write(wanted())
    _write({**kustomize()})  # from the chart that is up to date now
    return 0


def _write(files: dict[Path, str | None]) -> None:
    for path, text in files.items():
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
