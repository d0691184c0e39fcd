# SPDX-License-Identifier: Apache-2.0
"""The section `node.api_server`: whether agents talk to the Kubernetes API server, and as whom.
Knows no client.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, model_validator

from agents.config_values import HostPath, Section, shown

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_TAINT_KEY = re.compile(
    rf"(?=[^/]{{1,253}}/){_DNS_LABEL}(\.{_DNS_LABEL})*/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
)


def check_taint_key(key: str) -> str:
    """The key of a taint as the API server accepts it, with a domain. Raises ValueError."""
    if not _TAINT_KEY.fullmatch(key):
        raise ValueError(f"{shown(key)} is not the key of a taint, such as nodeshare/gpu-not-ready")
    return key


#: Key of a taint; None: this agent removes none.
TaintKey = Annotated[str, AfterValidator(check_taint_key)] | None


class StartupTaints(Section):
    """One for each agent: it takes its own off the node once it is ready, and no other."""

    gpu_plugin: TaintKey = "nodeshare/gpu-not-ready"
    fuse_mounter: TaintKey = "nodeshare/mounts-not-ready"
    lxcfs_helper: TaintKey = "nodeshare/view-not-ready"

    @model_validator(mode="after")
    def _one_each(self) -> StartupTaints:
        keys = [key for _, key in self if key is not None]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(
                f"two agents have {twice[0]!r}: the first that is ready would remove it for both;"
                " give each its own"
            )
        return self


class ApiServerConfig(Section):
    """Features that need the Kubernetes API server; off, no agent ever talks to it.

    `kubeconfig` None: as the service account of the pod.
    """

    enabled: bool = False
    kubeconfig: HostPath | None = None
    startup_taints: StartupTaints = StartupTaints()
