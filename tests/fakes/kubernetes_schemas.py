# SPDX-License-Identifier: Apache-2.0
"""The API's own schemas of each Kubernetes, offline (kubernetes-validate), read once each.

What a cluster has by extensions (PodMonitor, SecurityContextConstraints) is not among them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

VERSIONS = tuple(f"1.{minor}" for minor in range(28, 37))
_DIRECTORY = "kubernetes-json-schema/v{version}.0-local-strict/{name}.json"


def problems(document: dict[str, Any], version: str) -> list[str]:
    """What the API server of this version would say; strict: of unknown fields too. Raises
    SchemaNotFoundError for a kind that it does not have.
    """
    group, _, name = document["apiVersion"].rpartition("/")
    kind = document["kind"].lower()
    where = f"{group.partition('.')[0]}-{name}" if group else name
    try:
        validator = _validator(version, f"{kind}-{where}")
    except FileNotFoundError as error:
        raise kubernetes_validate.SchemaNotFoundError(
            document["kind"], version, document["apiVersion"]
        ) from error
    found = sorted(validator.iter_errors(document), key=str)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


@cache
def _validator(version: str, name: str) -> Draft202012Validator:
    schema = utils.schema_contents(_DIRECTORY.format(version=version, name=name), version)
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ _defined(version))


@cache
def _defined(version: str) -> Registry[Any]:
    contents = utils.schema_contents(
        _DIRECTORY.format(version=version, name="_definitions"), version
    )
    return Resource.from_contents(contents) @ Registry()
