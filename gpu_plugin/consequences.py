# SPDX-License-Identifier: Apache-2.0
"""What happens at a limit, in words for whoever owns the container. Pure."""

from __future__ import annotations

from gpu_plugin.enforcement_config import EnforcementConfig, Mode, Uninvited
from gpu_plugin.verdicts import Backend, Limits


def at_limit(limits: Limits, backend: Backend, config: EnforcementConfig) -> str:
    """What happens at the limit, and to what lies between request and limit."""
    if limits.limit is None:
        return "The device is yours alone: its size is the only limit."
    if not limits.request:
        return _uninvited(config)
    if config.mode is Mode.DISABLED or backend is Backend.NONE:
        return "Nothing is enforced on this node: what is above the limit is taken from others."
    said = _of_driver() if backend is Backend.DRIVER else _of_terminate(config)
    if limits.bursts:
        said += (
            " What is above the request may stay while the card has room; when others need what "
            f"they are guaranteed, it is taken back {_when(config.pressure_grace)}."
        )
    if config.mode is Mode.OBSERVE:
        return f"Nothing is done on this node, it is only told (observe). Else: {said}"
    return said


def _uninvited(config: EnforcementConfig) -> str:
    said = "Nothing of this device was given to this container"
    if config.mode is Mode.ENFORCE and config.uninvited is Uninvited.TERMINATE:
        return f"{said}: its processes there are ended {_when(config.grace)}."
    return f"{said}; that it is used is told to the operator."


def _of_driver() -> str:
    return "The driver gives no more: programs get a CUDA out-of-memory error."


def _of_terminate(config: EnforcementConfig) -> str:
    return (
        f"What is above the limit is taken back {_when(config.grace)}: processes are ended, as few "
        f"as are enough and the newest first (SIGTERM, {config.kill_after:g} s later SIGKILL)."
    )


def _when(grace_s: float) -> str:
    return f"after {grace_s:g} s" if grace_s else "at once"
