# SPDX-License-Identifier: Apache-2.0
"""Settings, from what YAML or Python has. Pure; knows no form, no pod and no hub.

What is wrong is told all at once, with the place and the remedy. What would be dead or a lie in a
pod that runs is refused here already: read-only, parts and other propagations of mounts.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from nodeshare_hub import volumes
from nodeshare_hub.settings import (
    CPU_COUNT_LABEL,
    CPU_COUNT_PROFILE,
    KEEP_S,
    LIMIT_ANNOTATION,
    ROOT,
    STALE_S,
    TIMEOUT_S,
    TOKENS,
    TOKENS_IN_POD,
    Availability,
    CpuCount,
    Gpu,
    Instance,
    Mount,
    Prometheus,
    Settings,
    Tokens,
)
from nodeshare_hub.words import Reader, SettingsError

_NAME = r"[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?"
_RESOURCE = r"[A-Za-z0-9.-]+/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_MEMORY = r"\d+(\.\d+)?[KMGT]?"
_PATH, _ABSOLUTE = r"/[^\0]*", "write an absolute path"
#: Keys of an instance that KubeSpawner has under the same name.
_MEMORY_KEYS = ("mem_limit", "mem_guarantee")


def parse(found: Any) -> Settings:
    """From what YAML or Python has. Raises SettingsError with all mistakes."""
    mistakes: list[str] = []
    top = Reader(found, "", mistakes)
    instances = tuple(_instance(one) for one in top.children("instances"))
    _together(top, instances)
    root = _path(top, "root", ROOT)
    settings = Settings(
        instances=instances,
        root=root,
        mounts=tuple(_mount(one) for one in top.children("mounts")),
        tokens=_tokens(top.child("tokens")),
        availability=_availability(top.child("availability")),
        cpu_count=_cpu_count(top.child("cpu_count")),
        threads=top.flag("threads", default=True),
        limit_annotation=top.text(
            "limit_annotation", LIMIT_ANNOTATION, pattern=_RESOURCE, remedy="write a key"
        ),
    )
    _apart(top, settings)
    for one in settings.instances:
        if one.cpu_count and settings.cpu_count is None:
            top.wrong(f"instances.{one.name}.cpu_count", True, "write the section cpu_count too")
    top.done()
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return settings


def _together(top: Reader, instances: tuple[Instance, ...]) -> None:
    names = [one.name for one in instances]
    for name in sorted({name for name in names if names.count(name) > 1}):
        top.wrong(
            "instances", name, "this name is there twice; names are what is stored of a choice"
        )
    if sum(one.default for one in instances) > 1:
        top.wrong("instances", True, "only one may be the default")
    if not instances:
        top.wrong("instances", [], "write at least one")


def _apart(top: Reader, settings: Settings) -> None:
    """Kubernetes refuses a pod in which two volumes have one name, or one place."""
    names = [one.name for one in settings.mounts] + ["tokens"] * bool(settings.tokens)
    paths = [one.mount_path for one in settings.mounts]
    paths += [settings.tokens.mount_path] if settings.tokens else []
    for what, found in (("name", names), ("mount_path", paths)):
        for twice in sorted({one for one in found if one and found.count(one) > 1}):
            top.wrong("mounts", twice, f"this {what} is there twice (also that of tokens counts)")
    for one in settings.mounts:
        if settings.tokens and volumes.below(settings.tokens.directory, one.host_path):
            remedy = "the tokens of all users are in there; write a directory without them"
            top.wrong(f"mounts.{one.name}.host_path", one.host_path, remedy)


def _instance(one: Reader) -> Instance:
    name = one.text("name", pattern=_NAME, remedy="write a name of a-z, 0-9 and -")
    one.place = f"instances.{name}" if name else one.place
    instance = Instance(
        name=name,
        title=one.text("title", name, remedy="write what people shall read"),
        description=_optional(one, "description"),
        groups=one.texts("groups"),
        default=one.flag("default"),
        cpu_limit=one.number("cpu_limit", least=0.001, most=8192),
        cpu_guarantee=one.number("cpu_guarantee", least=0, most=8192),
        **{key: _memory(one, key) for key in _MEMORY_KEYS},
        gpu=_gpu(one.child("gpu")),
        image=one.text("image", pattern=r"\S+", remedy="write an image")
        if "image" in one
        else None,
        node_selector=one.pairs("node_selector"),
        tolerations=one.mappings("tolerations"),
        environment=one.pairs("environment"),
        cpu_count=one.flag("cpu_count"),
    )
    _within(one, "cpu_guarantee", instance.cpu_guarantee, instance.cpu_limit)
    _within(one, "mem_guarantee", _bytes(instance.mem_guarantee), _bytes(instance.mem_limit))
    one.done()
    return instance


def _within(one: Reader, key: str, guarantee: float | None, limit: float | None) -> None:
    if guarantee is not None and limit is not None and guarantee > limit:
        one.wrong(key, guarantee, "write no more than the limit: Kubernetes refuses such a pod")


def _bytes(text: str | None) -> float | None:
    """Of KubeSpawner's `8G`; None also of what is wrong, and told already."""
    if text is None or not _matches(_MEMORY, text):
        return None
    number = text.rstrip("KMGT")
    return float(number) * float(1024 ** " KMGT".index(text[len(number) :] or " "))


def _memory(one: Reader, key: str) -> str | None:
    found = one.take(key)
    if found is None:
        return None
    if not isinstance(found, str | int) or not _matches(_MEMORY, str(found)):
        one.wrong(key, found, "write it as KubeSpawner has it, such as 8G (of 1024³ bytes)")
    return str(found)


def _gpu(one: Reader | None) -> Gpu | None:
    if one is None:
        return None
    sizes = one.take("sizes", [1])
    if (
        not isinstance(sizes, list | tuple)
        or not sizes
        or not all(type(size) is int and 0 < size <= 100_000 for size in sizes)
        or len(set(sizes)) < len(sizes)
    ):
        one.wrong("sizes", sizes, "write a list of different whole numbers, such as [4, 8, 16]")
        sizes = (1,)
    limit = one.child("limit") or Reader(None, "", one.mistakes)
    gpu = Gpu(
        resource=one.text(
            "resource", pattern=_RESOURCE, remedy="write a resource such as nodeshare/gpu-memory"
        ),
        sizes=tuple(sizes),
        chunk=one.size("chunk"),
        unit=_optional(one, "unit"),
        limit_ratio=limit.number("ratio", least=1, most=1000),
        limit_most=limit.size("most"),
    )
    if gpu.chunk is None and (gpu.limit_ratio or gpu.limit_most):
        one.wrong("limit", gpu.limit_ratio, "write the chunk too: a limit is a size of memory")
    if gpu.limit_most is not None and gpu.limit_ratio is None:
        one.wrong("limit.most", gpu.limit_most, "write a ratio too")
    if gpu.chunk is None and not gpu.unit:
        one.wrong("unit", gpu.unit, "write chunk: 1GiB for memory, or in words what one unit is")
    limit.done()
    one.done()
    return gpu


def _mount(one: Reader) -> Mount:
    for key in ("read_only", "readOnly"):
        if one.take(key) is not None:
            one.wrong(
                key,
                True,
                "read-only does not hold in a pod once the mount was replaced, and cannot be had "
                "together with propagation; publish a read_only name on the node "
                "(fuse_mounter.mounts.publish), and mount that",
            )
    for key in ("sub_path", "subPath", "propagation", "mountPropagation"):
        if (found := one.take(key)) is not None:
            one.wrong(
                key,
                found,
                "mounts are bound as directories with HostToContainer; a pod with anything else "
                "keeps a dead mount after a recovery. Write the directory as host_path",
            )
    mount = Mount(
        name=one.text("name", pattern=_NAME, remedy="write a name of a-z, 0-9 and -"),
        host_path=_path(one, "host_path", ""),
        mount_path=_path(one, "mount_path", ""),
        groups=one.texts("groups"),
    )
    one.done()
    return mount


def _tokens(one: Reader | None) -> Tokens | None:
    if one is None:
        return None
    file_name, remedy = r"[^/\0.][^/\0]*", "write the name of a file in the user's directory"
    tokens = Tokens(
        uid_field=tuple(one.text("uid_field", remedy="write such as oauth_user.uid").split(".")),
        directory=_path(one, "directory", TOKENS),
        mount_path=_path(one, "mount_path", TOKENS_IN_POD),
        eos=_optional(one, "eos", file_name, remedy),
        bearer=_optional(one, "bearer", file_name, remedy),
    )
    if not tokens.eos and not tokens.bearer:
        one.wrong("eos", None, "write the name of a file for eos, bearer, or both")
    one.done()
    return tokens


def _optional(
    one: Reader, key: str, pattern: str = r"(?s).*", remedy: str = "write it as text, in quotes"
) -> str:
    """Empty: it is not there."""
    found = one.take(key)
    if found is None:
        return ""
    if not isinstance(found, str) or not _matches(pattern, found):
        one.wrong(key, found, remedy)
        return ""
    return found


def _availability(one: Reader | None) -> Availability:
    if one is None:
        return Availability()
    availability = Availability(
        prometheus=_prometheus(one.child("prometheus")),
        nodes=one.flag("nodes"),
        keep_s=one.number("keep_s", least=1, most=3600) or KEEP_S,
        timeout_s=one.number("timeout_s", least=0.1, most=30) or TIMEOUT_S,
        stale_s=one.number("stale_s", least=10, most=86400) or STALE_S,
    )
    one.done()
    return availability


def _prometheus(one: Reader | None) -> Prometheus | None:
    if one is None:
        return None
    prometheus = Prometheus(
        url=one.text("url", pattern=r"https?://\S+", remedy="write http:// or https:// and a name"),
        matchers=one.pairs("matchers"),
        token_file=_optional(one, "token_file", _PATH, _ABSOLUTE) or None,
        ca_file=_optional(one, "ca_file", _PATH, _ABSOLUTE) or None,
    )
    for name in prometheus.matchers:
        if not _matches(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
            one.wrong("matchers", name, "write the name of a label")
    one.done()
    return prometheus


def _cpu_count(one: Reader | None) -> CpuCount | None:
    if one is None:
        return None
    found = CpuCount(
        profile=one.text(
            "profile",
            CPU_COUNT_PROFILE,
            pattern=r"[^/\0].*",
            remedy="write the path of the profile below the kubelet's seccomp directory",
        ),
        node_label=one.text(
            "node_label", CPU_COUNT_LABEL, remedy="write the label of nodes that have it"
        ),
    )
    one.done()
    return found


def _path(one: Reader, key: str, default: str) -> str:
    found = one.text(key, default, pattern=_PATH, remedy=_ABSOLUTE)
    return posixpath.normpath(found) if found else found


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None
