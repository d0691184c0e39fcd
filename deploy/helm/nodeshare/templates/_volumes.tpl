{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{/* What of the node a pod sees, and where. Each helper gives {"volumes": [...], "mounts": [...]} as YAML. */}}

{{/* into (lists to add to), path, and optionally: host (path there), name, type, propagation, readOnly. What is there by a directory that
is shared in both directions is not mounted once more: that mount would appear on the node, anew with each pod. So those come first. */}}
{{- define "nodeshare.hostPath" -}}
{{- $host := .host | default .path -}}
{{- $name := .name | default (printf "host-%s" (sha256sum $host | trunc 8)) -}}
{{- $mount := dict "name" $name "mountPath" .path -}}
{{- if .readOnly -}}{{- $_ := set $mount "readOnly" true -}}{{- end -}}
{{- with .propagation -}}{{- $_ := set $mount "mountPropagation" . -}}{{- end -}}
{{- $there := false -}}
{{- range .into.mounts -}}
{{- if or (eq .mountPath $.path) (and (eq (.mountPropagation | default "") "Bidirectional") (hasPrefix (printf "%s/" .mountPath) $.path) (eq $host $.path)) -}}
{{- $there = true -}}
{{- end -}}
{{- end -}}
{{- if not $there -}}
{{- $_ := set .into "volumes" (append .into.volumes (dict "name" $name "hostPath" (dict "path" $host "type" (.type | default "")))) -}}
{{- $_ := set .into "mounts" (append .into.mounts $mount) -}}
{{- end -}}
{{- end }}

{{/* root, into, and lists of {name, items}: the configuration and what these secrets and configMaps hold, as files of /etc/nodeshare.
page: with the token of the status page. */}}
{{- define "nodeshare.configVolume" -}}
{{- $config := dict "name" (printf "%s-config" (include "nodeshare.fullname" .root)) -}}
{{- $volume := dict "name" "config" -}}
{{- $sources := list (dict "configMap" $config) -}}
{{- $secrets := .secrets | default list -}}
{{- if and .page .root.Values.statusPage.secret -}}
{{- $item := dict "key" .root.Values.statusPage.key "path" "status-token" -}}
{{- $secrets = append $secrets (dict "name" .root.Values.statusPage.secret "items" (list $item)) -}}
{{- end -}}
{{- range $kind, $parts := dict "configMap" .configMaps "secret" $secrets -}}
{{- range $parts -}}
{{- $source := dict "name" .name -}}
{{- with .items -}}{{- $_ := set $source "items" . -}}{{- end -}}
{{- $sources = append $sources (dict $kind $source) -}}
{{- end -}}
{{- end -}}
{{- if gt (len $sources) 1 -}}
{{- $_ := set $volume "projected" (dict "defaultMode" 256 "sources" $sources) -}}
{{- else -}}
{{- $_ := set $volume "configMap" $config -}}
{{- end -}}
{{- $_ := set .into "volumes" (append .into.volumes $volume) -}}
{{- $_ := set .into "mounts" (append .into.mounts (dict "name" "config" "mountPath" "/etc/nodeshare" "readOnly" true)) -}}
{{- end }}

{{/* into, root: where the kubelet looks for profiles of seccomp. */}}
{{- define "nodeshare.seccompVolume" -}}
{{- if include "nodeshare.affinity" .root -}}
{{- $kubelet := ((.root.Values.config).node).kubelet_dir | default "/var/lib/kubelet" -}}
{{- include "nodeshare.hostPath" (dict "into" .into "name" "seccomp" "path" (printf "%s/seccomp" $kubelet) "type" "DirectoryOrCreate") -}}
{{- end -}}
{{- end }}

{{- define "nodeshare.volumes.gpu" -}}
{{- $node := (include "nodeshare.config" .root | fromYaml).node -}}
{{- $into := dict "volumes" list "mounts" list -}}
{{- include "nodeshare.configVolume" (dict "root" .root "into" $into "page" true) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "state" "path" $node.state_dir "type" "DirectoryOrCreate") -}}
{{- $strategy := .root.Values.gpu.updateStrategy -}}
{{- if and (ne $strategy.type "OnDelete") (not (has (toString (($strategy.rollingUpdate).maxSurge | default "0")) (list "0" "0%"))) -}}
{{- $_ := set $into "volumes" (append $into.volumes (dict "name" "run" "emptyDir" (dict "medium" "Memory" "sizeLimit" "16Mi"))) -}}
{{- $_ := set $into "mounts" (append $into.mounts (dict "name" "run" "mountPath" $node.run_dir)) -}}
{{- else -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "run" "path" $node.run_dir "type" "DirectoryOrCreate") -}}
{{- end -}}
{{- $kubelet := $node.kubelet_dir | default "/var/lib/kubelet" -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "device-plugins" "path" (printf "%s/device-plugins" $kubelet) "type" "Directory") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "pod-resources" "path" (printf "%s/pod-resources" $kubelet) "type" "Directory" "readOnly" true) -}}
{{- include "nodeshare.runtimeSocket" (dict "into" $into "node" $node) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "dev" "path" $node.host.dev "host" "/dev" "type" "Directory" "readOnly" true) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "cgroup" "path" "/sys/fs/cgroup" "type" "Directory" "readOnly" true) -}}
{{- toYaml $into -}}
{{- end }}

{{/* into, node. The directory, not the socket: a runtime that restarts makes another socket. Unless our own directory (or, for /run, the
token of the service account) would lie in it: then the socket, and our pods have to be restarted with the runtime. */}}
{{- define "nodeshare.runtimeSocket" -}}
{{- $socket := .node.cri_socket | default "/run/containerd/containerd.sock" -}}
{{- if or (has (dir $socket) (list "/run" "/var/run")) (hasPrefix (printf "%s/" (dir $socket)) .node.run_dir) -}}
{{- include "nodeshare.hostPath" (dict "into" .into "name" "runtime" "path" $socket "type" "Socket") -}}
{{- else -}}
{{- include "nodeshare.hostPath" (dict "into" .into "name" "runtime" "path" (dir $socket) "type" "Directory" "readOnly" true "propagation" "HostToContainer") -}}
{{- end -}}
{{- end }}

{{/* into, path: a directory of the node that may be missing, or be mounted later. So that this costs its mount alone, and not the pod, it is
there by the directory above, unless that is everybody's. */}}
{{- define "nodeshare.sourcePath" -}}
{{- $above := dir .path -}}
{{- if has $above (list "/" "/run" "/var/run" "/var" "/etc" "/usr" "/dev" "/proc" "/sys") -}}
{{- include "nodeshare.hostPath" (dict "into" .into "path" .path "type" "Directory" "propagation" "HostToContainer") -}}
{{- else -}}
{{- include "nodeshare.hostPath" (dict "into" .into "path" $above "type" "DirectoryOrCreate" "propagation" "HostToContainer") -}}
{{- end -}}
{{- end }}

{{/* What clients read and write, at the same paths in the holder and the agent of mounts. */}}
{{- define "nodeshare.clientPaths" -}}
{{- $config := include "nodeshare.config" .root | fromYaml -}}
{{- $suffix := include "nodeshare.suffix" .root -}}
{{- $into := .into -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "dev" "path" $config.node.host.dev "host" "/dev" "type" "Directory") -}}
{{- if .root.Values.mounts.enabled -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "caches" "path" "/var/cache/nodeshare" "host" (printf "/var/cache/nodeshare%s" $suffix) "type" "DirectoryOrCreate") -}}
{{- range $config.fuse_mounter.mounts -}}
{{- if eq .driver "eosxd" -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "eos-locks" "path" "/run/eos" "type" "DirectoryOrCreate") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "eos-caches" "path" "/var/cache/eos" "host" (printf "/var/cache/eos%s" $suffix) "type" "DirectoryOrCreate") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "eos-config" "path" "/etc/eos" "host" (printf "/etc/eos%s" $suffix) "type" "DirectoryOrCreate") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "eos-logs" "path" "/var/log/eos" "host" (printf "/var/log/eos%s" $suffix) "type" "DirectoryOrCreate") -}}
{{- else if eq .driver "cvmfs" -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "cvmfs-cache" "path" "/var/lib/cvmfs" "host" (printf "/var/lib/cvmfs%s" $suffix) "type" "DirectoryOrCreate") -}}
{{- if and .base (not (hasPrefix "/etc/nodeshare/" .base)) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "path" (dir .base) "type" "Directory" "readOnly" true "propagation" "HostToContainer") -}}
{{- end -}}
{{- else if has .driver (list "bind" "passthrough") -}}
{{- include "nodeshare.sourcePath" (dict "into" $into "path" .source) -}}
{{- end -}}
{{- end -}}
{{- range .root.Values.mounts.hostPaths -}}
{{- include "nodeshare.hostPath" (dict "into" $into "path" .path "type" .type "readOnly" .readOnly "propagation" "HostToContainer") -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "nodeshare.volumes.mounts" -}}
{{- $config := include "nodeshare.config" .root | fromYaml -}}
{{- $node := $config.node -}}
{{- $mounter := $config.fuse_mounter -}}
{{- $into := dict "volumes" list "mounts" list -}}
{{- include "nodeshare.configVolume" (dict "root" .root "into" $into "page" true "secrets" .root.Values.mounts.secrets) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "run" "path" $node.run_dir "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "root" "path" $mounter.root "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- if not (hasPrefix (printf "%s/" $node.run_dir) $mounter.credentials.directory) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "credentials" "path" (dir $mounter.credentials.directory) "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- end -}}
{{- include "nodeshare.runtimeSocket" (dict "into" $into "node" $node) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "modules" "path" "/lib/modules" "readOnly" true) -}}
{{- include "nodeshare.clientPaths" (dict "root" .root "into" $into) -}}
{{- range $mounter.scratch -}}
{{- if .directory -}}
{{- include "nodeshare.sourcePath" (dict "into" $into "path" .directory) -}}
{{- end -}}
{{- end -}}
{{- toYaml $into -}}
{{- end }}

{{- define "nodeshare.compatVolume" -}}
{{- with include "nodeshare.compatParent" .root -}}
{{- include "nodeshare.hostPath" (dict "into" $.into "name" "compat" "path" . "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- end -}}
{{- end }}

{{- define "nodeshare.volumes.view" -}}
{{- $node := (include "nodeshare.config" .root | fromYaml).node -}}
{{- $into := dict "volumes" list "mounts" list -}}
{{- include "nodeshare.configVolume" (dict "root" .root "into" $into "page" true "configMaps" .root.Values.view.configMaps) -}}
{{- include "nodeshare.compatVolume" (dict "root" .root "into" $into) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "run" "path" $node.run_dir "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- include "nodeshare.runtimeSocket" (dict "into" $into "node" $node) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "cgroup" "path" "/sys/fs/cgroup" "type" "Directory") -}}
{{- include "nodeshare.seccompVolume" (dict "root" .root "into" $into) -}}
{{- toYaml $into -}}
{{- end }}

{{- define "nodeshare.volumes.holder" -}}
{{- $config := include "nodeshare.config" .root | fromYaml -}}
{{- $into := dict "volumes" list "mounts" list -}}
{{- $secrets := list -}}
{{- if .root.Values.mounts.enabled -}}{{- $secrets = .root.Values.mounts.secrets -}}{{- end -}}
{{- include "nodeshare.configVolume" (dict "root" .root "into" $into "secrets" $secrets) -}}
{{- include "nodeshare.compatVolume" (dict "root" .root "into" $into) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "run" "path" $config.node.run_dir "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "cgroup" "path" "/sys/fs/cgroup" "type" "Directory") -}}
{{- include "nodeshare.clientPaths" (dict "root" .root "into" $into) -}}
{{- toYaml $into -}}
{{- end }}

{{/* Of `nodeshare uninstall`: all that any of them left on the node. */}}
{{- define "nodeshare.volumes.cleanup" -}}
{{- $config := include "nodeshare.config" .root | fromYaml -}}
{{- $node := $config.node -}}
{{- $kubelet := $node.kubelet_dir | default "/var/lib/kubelet" -}}
{{- $into := dict "volumes" list "mounts" list -}}
{{- include "nodeshare.configVolume" (dict "root" .root "into" $into) -}}
{{- include "nodeshare.compatVolume" (dict "root" .root "into" $into) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "run" "path" $node.run_dir "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "state" "path" $node.state_dir "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- with $config.fuse_mounter -}}
{{- if not (hasPrefix (printf "%s/" $node.state_dir) .root) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "root" "path" .root "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- end -}}
{{- if not (hasPrefix (printf "%s/" $node.run_dir) .credentials.directory) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "credentials" "path" (dir .credentials.directory) "type" "DirectoryOrCreate" "propagation" "Bidirectional") -}}
{{- end -}}
{{- end -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "device-plugins" "path" (printf "%s/device-plugins" $kubelet) "type" "Directory") -}}
{{- include "nodeshare.seccompVolume" (dict "root" .root "into" $into) -}}
{{- include "nodeshare.runtimeSocket" (dict "into" $into "node" $node) -}}
{{- include "nodeshare.hostPath" (dict "into" $into "name" "cgroup" "path" "/sys/fs/cgroup" "type" "Directory") -}}
{{- include "nodeshare.clientPaths" (dict "root" .root "into" $into) -}}
{{- toYaml $into -}}
{{- end }}
