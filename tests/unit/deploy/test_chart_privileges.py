# SPDX-License-Identifier: Apache-2.0
"""What the pods may do, on the node and at the API server: no more than deploy/README.md says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.chart import REPOSITORY, Chart, container, daemonsets, pod
from tests.fakes.chart_values import EVERYTHING

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("values", [{}, {"gpu": {"privileged": True}}])
def test_privileges(chart: Chart, values: Mapping[str, Any]) -> None:
    """As deploy/README.md says, line by line."""
    found = daemonsets(chart.render(values))
    for component in ("mounts", "holder", "view"):
        assert container(found[component])["securityContext"]["privileged"] is True
    assert {c for c, one in found.items() if pod(one).get("hostNetwork")} == {"mounts", "holder"}
    assert all(pod(one)["hostPID"] for one in found.values())
    gpu = container(found["gpu"])["securityContext"]
    if values:
        assert gpu == {"privileged": True, "readOnlyRootFilesystem": True}
        return
    assert gpu == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH", "KILL", "SYS_PTRACE"]},
    }


#: What the page calls a volume, by the chart's name of it.
_VOLUMES = {
    "state": "`<state_dir>`",
    "run": "`<run_dir>`",
    "root": "`fuse_mounter.root`",
    "credentials": "`credentials.directory`",
    "device-plugins": "`<kubelet_dir>/device-plugins`",
    "pod-resources": "`<kubelet_dir>/pod-resources`, read-only",
    "seccomp": "`<kubelet_dir>/seccomp`",
    "runtime": "directory of `cri_socket`, read-only",
    "dev": "`/dev` at `/host/dev`",
    "cgroup": "`/sys/fs/cgroup`",
    "modules": "`/lib/modules`, read-only",
    "compat": "the directory above `compat_root`",
}
_SECTIONS = {
    "gpu": "gpu",
    "view": "view",
    "mounts": "mounts and holder",
    "holder": "mounts and holder",
}


@pytest.mark.parametrize("component", _SECTIONS)
def test_the_page_names_every_privilege(chart: Chart, component: str) -> None:
    page = (REPOSITORY / "deploy/README.md").read_text()
    chapter = page.partition("## Privileges")[2].partition("\n## ")[0]
    section = chapter.partition(f"### {_SECTIONS[component]}\n")[2].partition("###")[0]
    if component == "holder":
        section += chapter.partition("### view\n")[2].partition("###")[0]  # of the root it serves
    rows = "\n".join(row.split("|")[1] for row in section.splitlines() if row.startswith("| "))
    one = daemonsets(chart.render(EVERYTHING))[component]
    given = {key for key in ("hostPID", "hostNetwork") if pod(one).get(key)}
    security = container(one)["securityContext"]
    given |= {"privileged"} if security.get("privileged") else set()
    given |= set(security.get("capabilities", {}).get("add", ()))
    assert not [word for word in given if f"`{word}`" not in rows]
    own = {"config", "more"}  # that of all, and what the values of this test add
    for mount in container(one)["volumeMounts"]:
        name, path = mount["name"], mount["mountPath"]
        listed = name.startswith("host-") and "`mounts.hostPaths`" in rows
        assert name in own or listed or _VOLUMES.get(name, f"`{path}`") in rows, name


def test_no_agent_may_ask_the_api_server_unless_it_is_told_to(chart: Chart) -> None:
    objects = chart.render()
    assert not [one for one in objects if "rbac" in one["apiVersion"]]
    assert not [
        c for c, one in daemonsets(objects).items() if pod(one)["automountServiceAccountToken"]
    ]


def test_least_rights(chart: Chart) -> None:
    objects = chart.render({"apiServer": {"enabled": True}})
    rights = {
        (one["kind"], one["metadata"]["name"]): {
            (resource, verb)
            for rule in one["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for one in objects
        if one["kind"] in ("Role", "ClusterRole")
    }
    node = {("nodes", "get"), ("nodes", "patch")}
    events = {("events", "create"), ("events", "patch")}
    assert rights == {
        ("ClusterRole", "nodeshare:nodeshare-gpu"): node | events,
        ("ClusterRole", "nodeshare:nodeshare-mounts"): node | events,
        ("ClusterRole", "nodeshare:nodeshare-view"): node,
        ("Role", "nodeshare-mounts"): {("leases", verb) for verb in ("get", "create", "update")},
    }
    bound = {
        (one["roleRef"]["name"], subject["name"])
        for one in objects
        if one["kind"].endswith("Binding")
        for subject in one["subjects"]
    }
    assert bound == {(name, name.rpartition(":")[2]) for _, name in rights}
    tokens = {
        c for c, one in daemonsets(objects).items() if pod(one)["automountServiceAccountToken"]
    }
    assert tokens == {"gpu", "mounts", "view"}
