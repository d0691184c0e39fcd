# SPDX-License-Identifier: Apache-2.0
"""The section `lxcfs_helper.affinity.profiles`: which seccomp profiles are installed beside the
built-in ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agents.config_values import HostPath, Section, shown

#: The runtime's default, and everything allowed; each with our notifications.
BUILT_IN = ("runtime-default", "unconfined")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")


def _names(own: dict[str, Path]) -> dict[str, Path]:
    for name in own:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{shown(name)} is no name of a profile; write a-z, 0-9, '-' and '.', such as team"
            )
        if name in BUILT_IN:
            raise ValueError(f"{name!r} is built in; choose another name")
    return own


class ProfilesConfig(Section):
    """Profiles for pods: `runtime-default`, `unconfined`, and those made from an operator's own."""

    #: Name to a file with the OCI's linux.seccomp object as JSON, in which ours is merged.
    own: Annotated[dict[str, HostPath], AfterValidator(_names)] = Field(default_factory=dict)
    #: Only a fatal signal wakes who waits for an answer (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).
    #: With a runtime that does not know the flag (runc before 1.5) no container starts: ask
    #: `runc features` for it, under supportedFlags.
    killable: Annotated[bool, Field(strict=True)] = False
