# SPDX-License-Identifier: Apache-2.0
"""The section is strict, and says what to write instead."""

from __future__ import annotations

import pytest

from agents import config
from agents.errors import ConfigError
from lxcfs_helper.agent import AGENT
from lxcfs_helper.config import ViewConfig, ViewName


def parse(text: str) -> ViewConfig:
    section = config.parse(text, {AGENT.section: AGENT.model}).sections[AGENT.section]
    assert isinstance(section, ViewConfig)
    return section


def test_defaults_show_everything_to_everybody_but_the_system() -> None:
    section = parse("lxcfs_helper:")
    assert {*ViewName} - {*section.files} == {ViewName.UPTIME}, "it contradicts ps"
    assert (section.inject.namespaces, section.inject.exclude) == (("*",), ("kube-system",))
    assert (section.heartbeat, section.poll) == (1.0, 10.0)
    assert (section.inject.pod_labels, section.inject.annotation) == ({}, "nodeshare/view")


def test_every_key() -> None:
    section = parse(
        "lxcfs_helper: {files: [stat, cpu], heartbeat: 500ms, poll: 2s,"
        " inject: {namespaces: ['jupyter*'], exclude: [], pod_labels: {app: 'hub-*'},"
        " annotation: example.org/proc}}"
    )
    assert section.files == (ViewName.STAT, ViewName.CPU)
    assert (section.heartbeat, section.poll) == (0.5, 2.0)
    assert section.inject.namespaces == ("jupyter*",)
    assert section.inject.pod_labels == {"app": "hub-*"}
    assert section.inject.annotation == "example.org/proc"


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("files: [vmstat]", "files.0", "'meminfo', 'cpuinfo', 'stat', "),
        ("files: [cpu, stat, cpu]", "files", "cpu is written twice; keep one"),
        ("heartbeat: 2", "heartbeat", "write a number with ms, s"),
        ("heartbeat: 1m", "heartbeat", "60 s is out of range; write 50ms to 5s"),
        ("affinity: {hold: 10s}", "affinity.hold", "10 s is out of range; write 50ms to 5s"),
        ("inject: {namespaces: ['']}", "inject.namespaces", "matches no namespace"),
        ("inject: {namespaces: [Jupyter]}", "inject.namespaces", "a-z, 0-9 and '-' alone"),
        (
            "inject: {exclude: [kube_system]}",
            "inject.exclude",
            "'kube_system' matches no namespace",
        ),
        ("inject: {namespace: [a]}", "inject.namespace", "known are annotation, exclude, names"),
        ("inject: {pod_labels: [a]}", "inject.pod_labels", "keys with values"),
        ("inject: {pod_labels: {view: true}}", "inject.pod_labels.view", "a valid string"),
        ("inject: {pod_labels: {'a b': c}}", "inject.pod_labels", "'a b' is no key of a label"),
        ("inject: {pod_labels: {app: 'a b'}}", "inject.pod_labels", "app: 'a b' matches no label"),
        (
            "inject: {annotation: '/view'}",
            "inject.annotation",
            "such as 'app' or 'example.org/app'",
        ),
        ("poll: 2m", "poll", "120 s is out of range; write 50ms to 60s"),
        ("compat_root: lxcfs", "compat_root", "'lxcfs' is not an absolute path"),
        ("compat_root: /", "compat_root", "'/' is in use by all"),
        ("compat_root: /sys/lxcfs", "compat_root", "write a directory that is only for this"),
        ("affinity: {hold: 1m}", "affinity.hold", "write 50ms to 5s"),
        (
            "affinity: {profiles: {own: {Team: /x}}}",
            "affinity.profiles.own",
            "'Team' is no name of a profile",
        ),
        (
            "affinity: {profiles: {own: {unconfined: /x}}}",
            "affinity.profiles.own",
            "'unconfined' is built in",
        ),
        ("affinity: {profiles: {own: {a: b}}}", "affinity.profiles.own.a", "an absolute path"),
        ("affinity: {profiles: {killable: 1}}", "affinity.profiles.killable", "a valid boolean"),
        (
            "file: [stat]",
            "file",
            "unknown key; known are affinity, compat_root, files, heartbeat, inject, poll",
        ),
    ],
)
def test_bad_input(text: str, path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"lxcfs_helper: {{{text}}}")
    assert f"lxcfs_helper.{path}: " in str(caught.value)
    assert said in str(caught.value)
