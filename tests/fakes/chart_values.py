# SPDX-License-Identifier: Apache-2.0
"""Values of the chart, for tests: everything that can be said, and sets that differ from each other
in one respect.
"""

from __future__ import annotations

from typing import Any

EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example.org/lab/nodeshare", "tag": "v2"},
    "imagePullSecrets": [{"name": "login"}],
    "apiServer": {"enabled": True},
    "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}]},
    "priorityClass": {"name": "node-agents", "create": True, "quota": True},
    "seLinux": {"enabled": True, "level": "s0"},
    "openshift": {"scc": True},
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboards": {"labels": {"grafana_dashboard": "1"}},
        "annotations": True,
    },
    "commonLabels": {"team": "platform"},
    "podLabels": {"pool": "a"},
    "podAnnotations": {"note": "all"},
    "nodeSelector": {"pool": "users"},
    "affinity": {"nodeAffinity": {}},
    "gpu": {
        "runtimeClassName": "nvidia",
        "migMonitor": True,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "podAnnotations": {"note": "own"},
    },
    "mounts": {
        "secrets": [{"name": "keys", "items": [{"key": "eos", "path": "eos.keytab"}]}],
        "hostPaths": [{"path": "/srv/more", "type": "Directory", "readOnly": True}],
    },
    "config": {
        "node": {"log": {"level": "debug"}, "kubelet_dir": "/srv/kubelet"},
        "fuse_mounter": {
            "mounts": [
                {
                    "name": "eos",
                    "driver": "eosxd",
                    "path": "eos",
                    "options": {"mgm": "root://eos.example.org", "remote_path": "/eos/"},
                    "credentials": {"sss_keytab": "/etc/nodeshare/eos.keytab"},
                },
                {"name": "s", "driver": "passthrough", "source": "/srv/scratch", "path": "s"},
                {
                    "name": "c",
                    "driver": "cvmfs",
                    "path": "c",
                    "source": "atlas.cern.ch",
                    "base": "/etc/cvmfs/default.conf",
                },
                {"name": "l", "driver": "bind", "source": "/var/lib/lab", "path": "l"},
            ],
            "scratch": [{"directory": "/srv/tmp", "older_than": "30d"}],
            "credentials": {"directory": "/run/tokens/users"},
        },
        "lxcfs_helper": {
            "compat_root": "/var/lib/lxcfs",
            "affinity": {
                "enabled": True,
                "profiles": {"own": {"team": "/etc/nodeshare/seccomp/team.json"}},
            },
        },
    },
    "view": {"configMaps": [{"name": "p", "items": [{"key": "t", "path": "seccomp/team.json"}]}]},
}
#: Name, values. Each is rendered, validated, and its configuration checked.
MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "everything, cleaning up": {**EVERYTHING, "cleanup": {"enabled": True}},
    "without gpu": {"gpu": {"enabled": False}},
    "without mounts": {"mounts": {"enabled": False}},
    "without view": {"view": {"enabled": False}},
    "gpu alone": {"mounts": {"enabled": False}, "view": {"enabled": False}},
    "holder as a service of the nodes": {"holder": {"enabled": False}},
    "api server": {"apiServer": {"enabled": True}},
    "dashboards": {
        "monitoring": {"dashboards": {"enabled": True, "annotations": {"folder": "nodeshare"}}}
    },
    "status page": {"statusPage": {"secret": "page"}, "networkPolicy": {"enabled": True}},
    "service monitor": {"monitoring": {"serviceMonitor": {"enabled": True}}},
    "privileged gpu": {"gpu": {"privileged": True}},
    "gpu without surge": {
        "gpu": {"updateStrategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    },
    "gpu by hand": {"gpu": {"updateStrategy": {"type": "OnDelete"}}},
    "side by side": {
        "sideBySide": {"nodes": "shared", "suffix": "test", "portOffset": 100},
        "config": {"lxcfs_helper": {"inject": {"namespaces": ["jupyter-test"]}}},
    },
    "accounts that are there": {
        "serviceAccounts": {"create": False, "names": {"gpu": "a", "mounts": "b", "view": "c"}},
        "apiServer": {"enabled": True},
    },
    "digests": {
        "image": {"digest": "sha256:" + "0" * 64},
        "mounts": {"image": {"digest": "sha256:" + "1" * 64}},
    },
}
