# SPDX-License-Identifier: Apache-2.0
"""Compute instance profiles for JupyterHub's KubeSpawner: people choose a share of a GPU, a slice
or none, see what is free, and get a pod with the right mounts, tokens and limits.

For the hub's configuration: `nodeshare_hub.configure(c, settings)`. Needs nothing but what a hub
with KubeSpawner has, and imports nothing of nodeshare's agents.
"""

from __future__ import annotations

from typing import Any

from nodeshare_hub import volumes
from nodeshare_hub.hooks import Hooks, listed
from nodeshare_hub.parsing import parse
from nodeshare_hub.settings import Settings
from nodeshare_hub.words import SettingsError

__all__ = ["Hooks", "Settings", "SettingsError", "configure", "parse"]


def configure(c: Any, settings: Any) -> Hooks:
    """Write the hooks into a traitlets configuration. Hooks that are there go first.

    Raises SettingsError with everything that is wrong, also with volumes that are configured
    already.
    """
    from jupyterhub.spawner import Spawner

    parsed = parse(settings)
    spawner = c.KubeSpawner
    found = volumes.problems(
        listed(_configured(spawner, "volumes")),
        listed(_configured(spawner, "volume_mounts")),
        root=parsed.root,
        tokens=parsed.tokens.directory if parsed.tokens else None,
    )
    if _configured(spawner, "profile_list"):
        found.append(
            "KubeSpawner.profile_list (singleuser.profileList): it would be applied after what "
            "people chose here, unseen. Make its entries instances"
        )
    if found:
        raise SettingsError("\n".join(found))
    before = _configured(spawner, "pre_spawn_hook") or _configured(c.Spawner, "pre_spawn_hook")
    hooks = Hooks(parsed, before, _configured(spawner, "after_pod_created_hook"))
    spawner.options_form = hooks.options_form
    spawner.options_from_form = hooks.options_from_form
    spawner.pre_spawn_hook = hooks.pre_spawn_hook
    spawner.after_pod_created_hook = hooks.after_pod_created_hook
    if hasattr(Spawner, "apply_user_options"):  # JupyterHub 5.3
        spawner.apply_user_options = hooks.apply_user_options
    return hooks


def _configured(spawner: Any, name: str) -> Any:
    """None: it is not there. (Asking for a key that is not there would make it.)"""
    return spawner.get(name)
