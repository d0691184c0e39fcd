# SPDX-License-Identifier: Apache-2.0
"""The places where the hub asks: which form, what it said, what becomes of the pod, and whether
that was taken.

The only module that knows the hub. Nothing that a browser or a client of the API sent counts before
the last moment: `pre_spawn_hook` compares it with what this person, in his groups of that moment,
is offered.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nodeshare_hub import choice, rejected, volumes
from nodeshare_hub.availability import Verdict, judge
from nodeshare_hub.choice import Offer, Refused
from nodeshare_hub.form import form
from nodeshare_hub.pod import VOLUME_PREFIX, Pod, pod
from nodeshare_hub.settings import Settings, Tokens
from nodeshare_hub.sources import kept

#: Users' numbers: root is none, and the last is what the kernel has for nobody at all.
_UIDS = range(1, 2**32 - 1)
#: Between two looks at a pod that the kubelet has not taken yet (seconds); the hub watches it.
_LOOK_S = 0.3
#: On a spawner that was started before: its traits as they were.
_BEFORE = "_nodeshare_before"


class Hooks:
    """For one hub. `before` and `after` are hooks of others (pre_spawn_hook and
    after_pod_created_hook), which go first.
    """

    def __init__(
        self,
        settings: Settings,
        before: Callable[..., Any] | None = None,
        after: Callable[..., Any] | None = None,
    ) -> None:
        self._settings, self._before, self._after = settings, before, after
        self._known = kept(settings.availability)

    async def options_form(self, spawner: Any) -> str:
        """What KubeSpawner shows; never fails for lack of news."""
        offered = self._offers(spawner)
        verdicts = await self._verdicts(offered)
        selected: Offer | None
        try:
            selected = choice.chosen(spawner.user_options, offered)
        except Refused:  # of a choice of before, which is not offered any more
            selected = choice.default(offered) if offered else None
        return form(offered, selected.key if selected else None, verdicts)

    def options_from_form(self, form_data: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """What the hub stores, and hands back at each start."""
        return choice.from_form(form_data)

    def apply_user_options(self, spawner: Any, options: object) -> None:
        """Tells newer hubs that somebody looks after the options; `pre_spawn_hook` does."""

    async def pre_spawn_hook(self, spawner: Any) -> None:
        """Makes the pod. Raises tornado's HTTPError, whose text the user is shown."""
        restore(spawner)  # before the other's hook: what it sets for this start shall stay
        await _call(self._before, spawner)
        try:
            offer = choice.chosen(spawner.user_options, self._offers(spawner))
        except Refused as error:
            raise _refusal(403, str(error)) from None
        uid = None if self._settings.tokens is None else await _uid(spawner, self._settings.tokens)
        verdict = (await self._verdicts([offer]))[offer.key]
        wanted = pod(
            self._settings,
            offer,
            groups=groups(spawner),
            uid=uid,
            nodes=verdict.nodes if verdict else (),
            cpu_limit=spawner.cpu_limit,
        )
        apply(spawner, wanted)
        self._check_volumes(spawner)

    async def after_pod_created_hook(self, spawner: Any, pod: Any) -> None:
        """Until the kubelet has taken the pod, so that one it rejects ends the start at once, with
        its reason, and not when the hub's patience does. Raises tornado's HTTPError.
        """
        await _call(self._after, spawner, pod)
        name = f"{spawner.namespace}/{spawner.pod_name}"
        while (found := spawner.pod_reflector.pods.get(name)) and not rejected.taken(found):
            if (why := rejected.told(found)) is not None:
                raise _refusal(409, why)
            await asyncio.sleep(_LOOK_S)  # the hub ends this with its start_timeout

    def _offers(self, spawner: Any) -> tuple[Offer, ...]:
        return choice.offers(self._settings.instances, groups(spawner))

    async def _verdicts(self, offered: Sequence[Offer]) -> dict[str, Verdict | None]:
        silent = (
            self._settings.availability.prometheus is None and not self._settings.availability.nodes
        )
        reading = None
        if not silent and any(one.gpu for one in offered):
            reading = await self._known.reading()
        stale_s = self._settings.availability.stale_s
        return {
            one.key: None if silent else judge(one, reading, now=time.time(), stale_s=stale_s)
            for one in offered
        }

    def _check_volumes(self, spawner: Any) -> None:
        tokens = self._settings.tokens
        found = volumes.problems(
            listed(spawner.volumes),
            listed(spawner.volume_mounts),
            root=self._settings.root,
            tokens=tokens.directory if tokens else None,
        )
        if found:
            for line in found:
                spawner.log.error("nodeshare_hub: %s", line)
            # Below 500: a hub ends itself after some errors in a row.
            raise _refusal(
                409,
                "this hub would mount something in a way that loses your files or shows a lie: "
                f"{'; '.join(found)}. Tell whoever runs this hub",
            )


def groups(spawner: Any) -> frozenset[str]:
    """Of the user of a spawner, by name."""
    return frozenset(one.name for one in spawner.user.groups)


async def _call(hook: Callable[..., Any] | None, *words: Any) -> None:
    """One that may be a coroutine, or not be there."""
    found = hook(*words) if hook is not None else None
    if inspect.isawaitable(found):
        await found


async def _uid(spawner: Any, tokens: Tokens) -> int:
    """By which the node knows the user: his tokens are there, and he runs as it."""
    found: Any = await spawner.user.get_auth_state()
    for key in tokens.uid_field:
        found = found.get(key) if isinstance(found, Mapping) else None
    text = str(found)
    if isinstance(found, bool) or not (text.isascii() and text.isdigit() and int(text) in _UIDS):
        spawner.log.error(
            "nodeshare_hub: auth_state of %s has no user's number at %s (is enable_auth_state on?)",
            spawner.user.name,
            ".".join(tokens.uid_field),
        )
        raise _refusal(
            403,
            "your login does not tell your user number, without which your files and tokens cannot "
            "be reached. Log out and in again; if that does not help, tell whoever runs this hub",
        )
    return int(text)


def apply(spawner: Any, wanted: Pod) -> None:
    """Onto a spawner whose traits are as configured; they are remembered for `restore`."""
    names = {*wanted.values, *wanted.added, *wanted.lists}
    setattr(spawner, _BEFORE, {name: copy.deepcopy(getattr(spawner, name)) for name in names})
    for name, value in wanted.values.items():
        setattr(spawner, name, value)
    for name, more in wanted.added.items():
        if more:
            setattr(spawner, name, _with(getattr(spawner, name), more))
    for name, entries in wanted.lists.items():
        if not entries:
            continue
        present = getattr(spawner, name)
        if isinstance(present, Mapping):
            keyed = {f"{VOLUME_PREFIX}{number}": one for number, one in enumerate(entries)}
            setattr(spawner, name, {**present, **keyed})
        else:
            setattr(spawner, name, [*present, *entries])


def _with(present: Any, more: Mapping[str, Any]) -> Any:
    """A dictionary with more in it; of a function that makes one, another function."""
    if not callable(present):
        return {**(present or {}), **more}

    async def made(spawner: Any) -> dict[str, Any]:
        found = present(spawner)
        return {**(await found if inspect.isawaitable(found) else found), **more}

    return made


def restore(spawner: Any) -> None:
    """As configured: a spawner of a start that failed is used again, for another choice perhaps."""
    for name, value in getattr(spawner, _BEFORE, {}).items():
        setattr(spawner, name, value)
    setattr(spawner, _BEFORE, {})


def listed(entries: Any) -> list[Mapping[str, Any]]:
    """KubeSpawner takes a list, or a dictionary of which it uses the values."""
    found = list(entries.values()) if isinstance(entries, Mapping) else entries
    # Of a configuration that is only appended to, nothing can be known before a spawner has it.
    known = found if isinstance(found, list | tuple) else ()
    return [one for one in known if isinstance(one, Mapping)]


def _refusal(status: int, text: str) -> Exception:
    """What the hub shows on the page, and answers its API with."""
    from tornado.web import HTTPError

    error: Exception = HTTPError(status, "%s", text)
    error.jupyterhub_message = text  # type: ignore[attr-defined] # the hub looks for it
    return error
