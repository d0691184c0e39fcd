{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{/* The configuration of the node as it is rendered: what was written, over what the chart itself sets. */}}

{{/* base, over: every key of over into base, in place; maps are joined. (sprig's merge loses false and 0.) */}}
{{- define "nodeshare.overlay" -}}
{{- $base := .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $base $key)) -}}
{{- include "nodeshare.overlay" (dict "base" (get $base $key) "over" $value) -}}
{{- else -}}
{{- $_ := set $base $key $value -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* "-test", or nothing. */}}
{{- define "nodeshare.suffix" -}}
{{- with .Values.sideBySide.suffix }}-{{ . }}{{ end -}}
{{- end }}

{{/* "true" if system calls of containers are answered. */}}
{{- define "nodeshare.affinity" -}}
{{- if and .Values.view.enabled (((.Values.config).lxcfs_helper).affinity).enabled }}true{{ end -}}
{{- end }}

{{/* The whole document as YAML. Sections of agents that are off are left out. */}}
{{- define "nodeshare.config" -}}
{{- $written := .Values.config | default dict -}}
{{- $suffix := include "nodeshare.suffix" . -}}
{{- $offset := int .Values.sideBySide.portOffset -}}
{{- $domain := printf "nodeshare%s" $suffix -}}
{{- $node := dict
      "state_dir" (printf "/var/lib/nodeshare%s" $suffix)
      "run_dir" (printf "/run/nodeshare%s" $suffix)
      "host" (dict "dev" "/host/dev")
      "metrics" (dict "ports" (dict "gpu_plugin" (add 9401 $offset) "fuse_mounter" (add 9402 $offset) "lxcfs_helper" (add 9403 $offset)))
      "status" (dict "ports" (dict "gpu_plugin" (add 9411 $offset) "fuse_mounter" (add 9412 $offset) "lxcfs_helper" (add 9413 $offset)))
      "holder" (dict "start" false)
      "api_server" (dict "enabled" .Values.apiServer.enabled "startup_taints" (dict
        "gpu_plugin" (printf "%s/gpu-not-ready" $domain)
        "fuse_mounter" (printf "%s/mounts-not-ready" $domain)
        "lxcfs_helper" (printf "%s/view-not-ready" $domain))) -}}
{{- if .Values.statusPage.secret -}}
{{- $_ := set $node "status" (merge $node.status (dict "address" "0.0.0.0" "token_file" "/etc/nodeshare/status-token")) -}}
{{- end -}}
{{- if include "nodeshare.affinity" . -}}{{- $_ := set $node.holder "seccomp_socket" true -}}{{- end -}}
{{- if .Values.seLinux.enabled -}}{{- $_ := set $node "selinux_label" .Values.seLinux.hostLabel -}}{{- end -}}
{{- include "nodeshare.overlay" (dict "base" $node "over" $written.node) -}}
{{- $document := dict "node" $node -}}
{{- if .Values.gpu.enabled -}}
{{- $gpu := dict "resources" (list (dict "name" (printf "%s/gpu-memory" $domain) "select" (dict "mig" "none") "chunk" "1GiB")) -}}
{{- include "nodeshare.overlay" (dict "base" $gpu "over" $written.gpu_plugin) -}}
{{- $_ := set $document "gpu_plugin" $gpu -}}
{{- end -}}
{{- if .Values.mounts.enabled -}}
{{- $mounter := dict "root" (printf "%s/mounts" $node.state_dir) "credentials" (dict "directory" (printf "%s/credentials" $node.run_dir)) -}}
{{- include "nodeshare.overlay" (dict "base" $mounter "over" $written.fuse_mounter) -}}
{{- $_ := set $document "fuse_mounter" $mounter -}}
{{- end -}}
{{- if .Values.view.enabled -}}
{{- $_ := set $document "lxcfs_helper" (deepCopy ($written.lxcfs_helper | default dict)) -}}
{{- end -}}
{{- toYaml $document -}}
{{- end }}

{{/* root, section: a digest of what an agent takes from the file only when it starts. */}}
{{- define "nodeshare.restartDigest" -}}
{{- $config := include "nodeshare.config" .root | fromYaml -}}
{{- if eq .root.Values.restartOnChange "always" -}}
{{- toYaml $config | sha256sum -}}
{{- else -}}
{{- $own := get $config .section | default dict -}}
{{- $kept := dict "node" (omit $config.node "log") "there" (hasKey $config .section) -}}
{{- if eq .section "gpu_plugin" -}}
{{- $_ := set $kept "own" $own -}}
{{- else if eq .section "fuse_mounter" -}}
{{- $_ := set $kept "own" (pick $own "root") -}}
{{- end -}}
{{- toYaml $kept | sha256sum -}}
{{- end -}}
{{- end }}

{{/* root, component: "true" if it is rendered. A holder where there may be clients; the clean-up in the place of all others. */}}
{{- define "nodeshare.runs" -}}
{{- $values := .root.Values -}}
{{- if eq .component "cleanup" -}}
{{- if $values.cleanup.enabled }}true{{ end -}}
{{- else if $values.cleanup.enabled -}}
{{- else if eq .component "holder" -}}
{{- if and $values.holder.enabled (or $values.mounts.enabled $values.view.enabled) }}true{{ end -}}
{{- else if (get $values .component).enabled }}true
{{- end -}}
{{- end }}

{{/* The directory above the lxcfs-compatible root, in which that is mounted; nothing: there is none. */}}
{{- define "nodeshare.compatParent" -}}
{{- if .Values.view.enabled -}}
{{- with (include "nodeshare.config" . | fromYaml).lxcfs_helper.compat_root -}}
{{- dir . -}}
{{- end -}}
{{- end -}}
{{- end }}
