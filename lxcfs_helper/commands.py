# SPDX-License-Identifier: Apache-2.0
"""`nodeshare view ls | show | profiles | env | eject`: what a person or a script asks on the node.

Only the words are here; imports what a command needs when it is run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agents import config
from agents.agent import installed, models
from agents.config import NodeConfig, Section
from agents.errors import AgentError, ConfigError

_SECTION = "lxcfs_helper"


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs of `nodeshare view`."""
    listing = verbs.add_parser("ls", help="the containers that run here and what each is shown")
    listing.set_defaults(run=_list)
    show = verbs.add_parser("show", help="what one container sees, next to the host's value")
    show.add_argument(
        "who", metavar="PID|POD", help="a process, or a pod as NAME, NAMESPACE/NAME or its uid"
    )
    show.add_argument("--json", action="store_true", help="the same as JSON")
    show.set_defaults(run=_show)
    away = verbs.add_parser(
        "eject", help="take every view out of every container, when no agent runs any more"
    )
    away.set_defaults(run=_eject)
    profiles = verbs.add_parser(
        "profiles", help="the seccomp profiles that a configuration makes, and how pods name them"
    )
    profiles.add_argument(
        "name", nargs="?", metavar="NAME", help="this one, as the runtime gets it"
    )
    profiles.set_defaults(run=_profiles)
    environment = _add_env(verbs)
    for verb in (listing, show, profiles, environment, away):
        verb.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration")


def _add_env(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        "env", help="variables by which programs start as many threads as a CPU limit allows"
    )
    verb.add_argument(
        "who",
        nargs="?",
        metavar="PID|POD",
        help="whose limit: a process, or a pod as NAME, NAMESPACE/NAME or its uid; else the own",
    )
    verb.add_argument("--container", metavar="NAME", help="which one of the pod's containers")
    verb.add_argument("--cpus", metavar="N", help="this limit instead, such as 2.5 or 500m")
    verb.add_argument(
        "--format",
        choices=("shell", "env-file", "json", "yaml"),
        default="shell",
        help="yaml is the list below env: of a container (default: shell, for eval)",
    )
    verb.set_defaults(run=_env)
    return verb


def _node(options: argparse.Namespace) -> NodeConfig:
    return _configured(options)[0]


def _configured(options: argparse.Namespace) -> tuple[NodeConfig, Section | None]:
    """The node, and the own section (None: it is not written)."""
    if options.config is None:
        return NodeConfig(), None
    loaded = config.load(options.config, models(installed()), only=_SECTION)
    return loaded.node, loaded.sections.get(_SECTION)


def _list(options: argparse.Namespace) -> int:
    from lxcfs_helper.asked import containers
    from lxcfs_helper.explain import attached
    from lxcfs_helper.explain_text import listing

    node = _node(options)
    running = [
        (one, None if one.pid is None else attached(node, one.pid)) for one in containers(node)
    ]
    print(listing(running))
    return 0


def _show(options: argparse.Namespace) -> int:
    from lxcfs_helper.explain import explain
    from lxcfs_helper.explain_text import report

    print(report(explain(_node(options), options.who)).text(as_json=options.json))
    return 0


def _profiles(options: argparse.Namespace) -> int:
    from agents.hostfs import seccomp_socket
    from lxcfs_helper.affinity.profile_files import ProfileFiles
    from lxcfs_helper.affinity.profile_keeper import wanted_profiles
    from lxcfs_helper.affinity.profile_text import listing
    from lxcfs_helper.config import ViewConfig

    node, section = _configured(options)
    assert section is None or isinstance(section, ViewConfig)
    wanted = (section or ViewConfig()).affinity.profiles
    profiles, problems = wanted_profiles(wanted, seccomp_socket(node.run_dir))
    if options.name is None:
        print(listing(profiles, problems, ProfileFiles(node.kubelet_dir).installed()))
        return 1 if problems else 0
    for profile in profiles:
        if profile.name == options.name:
            print(profile.text.decode(), end="")
            return 0
    names = ", ".join(profile.name for profile in profiles)
    more = "; ".join((f"there are {names}", *problems))
    raise ConfigError(f"no seccomp profile {options.name!r} can be made; {more}")


def _env(options: argparse.Namespace) -> int:
    from lxcfs_helper.affinity import cpu_limit, environment

    if options.container is not None and options.who is None:
        raise ConfigError("--container is one of a pod's; name the pod, too")
    if options.cpus is not None:
        if options.who is not None:
            raise ConfigError("--cpus and PID|POD are two limits; give one of them")
        cpus = environment.parse_cpus(options.cpus)
    elif options.who is not None:
        cpus = cpu_limit.cpus_of(_node(options), options.who, options.container)
    else:
        cpus = cpu_limit.own_cpus(_node(options))
    variables = environment.environment(environment.threads(cpus))
    print(environment.written(variables, environment.Format(options.format)))
    return 0


def _eject(options: argparse.Namespace) -> int:
    import trio

    from agents.mounts import LinuxMounts
    from agents.namespaces import NamespaceHelper
    from agents.overview import NOT_RUNNING, look
    from lxcfs_helper.compat.removal import remove
    from lxcfs_helper.eject import eject
    from lxcfs_helper.files import ViewFiles, views_directory

    node = _node(options)
    (agent,) = look([one for one in installed() if one.section == _SECTION], node.run_dir)
    if agent.problem != NOT_RUNNING:
        raise AgentError(
            f"the agent of {str(node.run_dir)!r} runs, and would put everything back",
            remedy="stop it first",
        )
    host = node.host.host_fs()
    namespaces = NamespaceHelper.start(host.proc)
    try:
        files = ViewFiles(views_directory(node.run_dir), LinuxMounts(), host.proc)
        done = eject(host, namespaces, files)
    finally:
        namespaces.close()
    roots, problems = trio.run(remove, node.run_dir, host, LinuxMounts())
    print(f"{done.mounts} mounts taken out of {done.namespaces} mount namespaces")
    if roots:
        print("the lxcfs-compatible root taken away")
    problems = (*done.problems, *problems, *_remove_profiles(node))
    for problem in problems:
        print(f"not taken away: {problem}")
    return 1 if problems else 0


def _remove_profiles(node: NodeConfig) -> tuple[str, ...]:
    """What is wrong, in words."""
    from lxcfs_helper.affinity.profile_files import ProfileFiles, localhost_profile

    files = ProfileFiles(node.kubelet_dir)
    try:
        names = files.remove()
    except OSError as error:
        return (f"{str(files.directory)!r}: {error.strerror}",)
    if names:
        gone = ", ".join(map(localhost_profile, names))
        print(f"seccomp profiles taken away, without which pods cannot start: {gone}")
    return ()
