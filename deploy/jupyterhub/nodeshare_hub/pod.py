# SPDX-License-Identifier: Apache-2.0
"""What an offer makes of a pod, in the words of KubeSpawner. Pure; knows neither form nor hub.

`Pod` holds what is added to what the hub's own configuration says; who applies it adds dictionaries
and lists, and sets the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodeshare_hub.choice import Offer
from nodeshare_hub.settings import CpuCount, Mount, Settings, Tokens
from nodeshare_hub.words import size_text

#: By which programs start no more threads than the CPU limit has CPUs. The same list as that of
#: `nodeshare view env`; a test compares them.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
    "GOMAXPROCS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "JULIA_NUM_THREADS",
    "JULIA_CPU_THREADS",
    "MC_CORES",
    "R_PARALLELLY_AVAILABLECORES_SYSTEM",
    "R_DATATABLE_NUM_THREADS",
    "RCPP_PARALLEL_NUM_THREADS",
)
#: Label of the pod, for whoever counts instances.
INSTANCE_LABEL = "nodeshare/instance"
#: Names of our volumes begin so.
VOLUME_PREFIX = "nodeshare-"


@dataclass(frozen=True, slots=True)
class Pod:
    """Traits of KubeSpawner. `values` are set, `added` are dictionaries to be updated, `lists` are
    appended to.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lists: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


def pod(
    settings: Settings,
    offer: Offer,
    *,
    groups: Collection[str],
    uid: int | None,
    nodes: Collection[str] = (),
    cpu_limit: float | None = None,
) -> Pod:
    """`uid`: the user's number, None: no tokens are configured. `nodes`: where it fits now.
    `cpu_limit` is the hub's own, for an instance that says none.
    """
    one = offer.instance
    seccomp = settings.cpu_count if one.cpu_count else None
    mounts = [mount for mount in settings.mounts if _may(mount, groups)]
    values = {
        "cpu_limit": one.cpu_limit,
        "cpu_guarantee": one.cpu_guarantee,
        "mem_limit": one.mem_limit,
        "mem_guarantee": one.mem_guarantee,
        "image": one.image,
        "uid": uid,
    }
    requests = {offer.gpu.resource: str(offer.units)} if offer.gpu else {}
    profile = {"type": "Localhost", "localhostProfile": seccomp.profile} if seccomp else None
    tokens = settings.tokens if uid is not None else None
    return Pod(
        values={name: value for name, value in values.items() if value is not None},
        added={
            "extra_resource_limits": requests,
            "extra_resource_guarantees": requests,
            "extra_annotations": _annotations(settings, offer),
            "extra_labels": {INSTANCE_LABEL: one.name},
            "node_selector": dict(one.node_selector) | _label(seccomp),
            "environment": _environment(settings, offer, tokens, cpu_limit),
            "container_security_context": {"seccompProfile": profile} if profile else {},
        },
        lists={
            "volumes": [_volume(one) for one in mounts] + _token_volume(tokens, uid),
            "volume_mounts": [_volume_mount(one) for one in mounts] + _token_mount(tokens),
            "tolerations": [dict(one) for one in one.tolerations],
            "node_affinity_preferred": [_hint(node, rank) for rank, node in enumerate(nodes)],
        },
    )


def _annotations(settings: Settings, offer: Offer) -> dict[str, str]:
    limit = offer.gpu.limit(offer.units) if offer.gpu else None
    return {} if limit is None else {settings.limit_annotation: size_text(limit)}


def _label(seccomp: CpuCount | None) -> dict[str, str]:
    """A node label, `key=value`; without a value it is `true`."""
    if seccomp is None:
        return {}
    key, _, value = seccomp.node_label.partition("=")
    return {key: value or "true"}


def _environment(
    settings: Settings, offer: Offer, tokens: Tokens | None, cpu_limit: float | None
) -> dict[str, str]:
    one = offer.instance
    found: dict[str, str] = {}
    limit = one.cpu_limit if one.cpu_limit is not None else cpu_limit
    if settings.threads and limit:
        threads = str(max(1, math.ceil(limit)))
        found |= dict.fromkeys(THREAD_VARIABLES, threads)
    if tokens and tokens.eos:
        found["OAUTH2_TOKEN"] = f"FILE:{tokens.mount_path}/{tokens.eos}"
    if tokens and tokens.bearer:
        found["BEARER_TOKEN_FILE"] = f"{tokens.mount_path}/{tokens.bearer}"
    return found | dict(one.environment)


def _may(mount: Mount, groups: Collection[str]) -> bool:
    return not mount.groups or bool(set(mount.groups) & set(groups))


def _volume(mount: Mount) -> dict[str, Any]:
    # `Directory`: a pod that is quicker than the agent waits, and gets no empty directory.
    path = {"path": mount.host_path, "type": "Directory"}
    return {"name": f"{VOLUME_PREFIX}{mount.name}", "hostPath": path}


def _volume_mount(mount: Mount) -> dict[str, Any]:
    return {
        "name": f"{VOLUME_PREFIX}{mount.name}",
        "mountPath": mount.mount_path,
        "mountPropagation": "HostToContainer",
    }


def _token_volume(tokens: Tokens | None, uid: int | None) -> list[dict[str, Any]]:
    if tokens is None:
        return []
    # Made by the kubelet if need be: the agent adopts it when it is empty, and the pod sees the
    # token as soon as it is there.
    path = {"path": f"{tokens.directory}/{uid}", "type": "DirectoryOrCreate"}
    return [{"name": f"{VOLUME_PREFIX}tokens", "hostPath": path}]


def _token_mount(tokens: Tokens | None) -> list[dict[str, Any]]:
    if tokens is None:
        return []
    return [
        {
            "name": f"{VOLUME_PREFIX}tokens",
            "mountPath": tokens.mount_path,
            "readOnly": True,  # it holds here: no mount lies below
            "mountPropagation": "HostToContainer",
        }
    ]


def _hint(node: str, rank: int) -> dict[str, Any]:
    """The scheduler sees a sum over devices; here is where it fits on one. Never a condition."""
    name = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"weight": max(1, 100 - rank), "preference": {"matchFields": [name]}}
