{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{/* The pod of an agent: what is the same in all four. root, component, section (of the configuration; the holder has none), and
what makes the pods differ: hostNetwork, security (securityContext of the container), env, grace (seconds), unconfined (by AppArmor); once: it ends. */}}

{{- define "nodeshare.daemonset" -}}
{{- $root := .root -}}
{{- $own := get $root.Values .component -}}
{{- $config := include "nodeshare.config" $root | fromYaml -}}
{{- $volumes := include (printf "nodeshare.volumes.%s" .component) (dict "root" $root) | fromYaml -}}
{{- $port := 0 -}}
{{- if .section -}}{{- $port = int (get $config.node.metrics.ports .section) -}}{{- end -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  {{- include "nodeshare.metadata" (dict "root" $root "component" .component) | nindent 2 }}
spec:
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "nodeshare.selectorLabels" (dict "root" $root "component" .component) | nindent 6 }}
  updateStrategy:
    {{- toYaml (eq .strategy.type "OnDelete" | ternary (pick .strategy "type") .strategy) | nindent 4 }}
  template:
    metadata:
      labels:
        {{- include "nodeshare.podLabels" (dict "root" $root "component" .component) | nindent 8 }}
      annotations:
        {{- include "nodeshare.podAnnotations" (dict "root" $root "component" .component "section" .section "own" $own "config" $config "unconfined" .unconfined) | nindent 8 }}
    spec:
      serviceAccountName: {{ include "nodeshare.serviceAccountName" (dict "root" $root "component" .component) }}
      automountServiceAccountToken: {{ and $root.Values.apiServer.enabled (ne .component "holder") }}
      priorityClassName: {{ $root.Values.priorityClass.name }}
      {{- with .runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      hostPID: true
      {{- if .hostNetwork }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace }}
      securityContext:
        runAsUser: 0
        runAsGroup: 0
        {{- if $root.Values.seLinux.enabled }}
        seLinuxOptions:
          type: {{ $root.Values.seLinux.type }}
          {{- with $root.Values.seLinux.level }}
          level: {{ . | quote }}
          {{- end }}
        {{- end }}
        {{- if and .unconfined (semverCompare ">=1.30-0" $root.Capabilities.KubeVersion.Version) }}
        appArmorProfile:
          type: Unconfined
        {{- end }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      nodeSelector:
        {{- toYaml (merge (deepCopy (.nodeSelector | default $root.Values.nodeSelector | default dict)) (dict "kubernetes.io/os" "linux")) | nindent 8 }}
      {{- with .affinity | default $root.Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      tolerations:
        {{- include "nodeshare.tolerations" (dict "root" $root "own" .tolerations "taints" $config.node.api_server.startup_taints) | nindent 8 }}
      {{ if .once }}initContainers{{ else }}containers{{ end }}:
        - name: {{ .component }}
          image: {{ include "nodeshare.image" (dict "root" $root "component" .component) }}
          imagePullPolicy: {{ (include "nodeshare.imageParts" (dict "root" $root "component" .component) | fromYaml).pullPolicy }}
          terminationMessagePolicy: FallbackToLogsOnError
          args: {{ .args | default (list "run" .component "--config" "/etc/nodeshare/nodeshare.yaml") | toJson }}
          env:
            - name: NODE_NAME
              valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
            - name: POD_NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - name: POD_NAMESPACE
              valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
            {{- with .env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- with $own.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- if .section }}
          ports:
            - name: metrics
              containerPort: {{ $port }}
              protocol: TCP
            {{- if $root.Values.statusPage.secret }}
            - name: status
              containerPort: {{ int (get $config.node.status.ports .section) }}
              protocol: TCP
            {{- end }}
          startupProbe:
            httpGet:
              path: /healthz
              port: {{ $port }}
            periodSeconds: 1
            timeoutSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet:
              path: /healthz
              port: {{ $port }}
            periodSeconds: 20
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet:
              path: /readyz
              port: {{ $port }}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 2
          {{- end }}
          resources:
            {{- toYaml ($own.resources | default (dict "requests" (dict "cpu" "10m" "memory" "64Mi"))) | nindent 12 }}
          securityContext:
            {{- toYaml .security | nindent 12 }}
          volumeMounts:
            {{- toYaml $volumes.mounts | nindent 12 }}
            {{- with $own.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      {{- if .once }}
      containers:
        # Nothing is left to do on this node; a DaemonSet knows no pod that is done.
        - name: done
          image: {{ include "nodeshare.image" (dict "root" $root "component" .component) }}
          command: [sleep, infinity]
          resources:
            requests: {cpu: 1m, memory: 8Mi}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
      {{- end }}
      volumes:
        {{- toYaml $volumes.volumes | nindent 8 }}
        {{- with $own.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* root, component, section, own (values), config, unconfined. Ours win. */}}
{{- define "nodeshare.podAnnotations" -}}
{{- $values := .root.Values -}}
{{- $ours := dict "kubectl.kubernetes.io/default-container" .component -}}
{{- /* Agents read the node's files in their own /proc: over those no view may lie. */ -}}
{{- $_ := set $ours (((.config.lxcfs_helper).inject).annotation | default "nodeshare/view") "false" -}}
{{- if and .section (ne $values.restartOnChange "never") -}}
{{- $_ := set $ours "checksum/config" (include "nodeshare.restartDigest" .) -}}
{{- end -}}
{{- if and .section $values.monitoring.annotations -}}
{{- $port := get .config.node.metrics.ports .section | int | toString -}}
{{- $ours = merge $ours (dict "prometheus.io/scrape" "true" "prometheus.io/port" $port "prometheus.io/path" "/metrics") -}}
{{- end -}}
{{- if and .unconfined (semverCompare "<1.30-0" .root.Capabilities.KubeVersion.Version) -}}
{{- $_ := set $ours (printf "container.apparmor.security.beta.kubernetes.io/%s" .component) "unconfined" -}}
{{- end -}}
{{- toYaml (merge $ours (.own.podAnnotations | default dict) ($values.podAnnotations | default dict)) -}}
{{- end }}

{{/* {"affinity": ..., "tolerations": [...]} of a pod that comes to every node which one of the agents was for, and to no other: there may be
another release. The terms of an affinity are alternatives; a selector of an agent is part of each of its own. */}}
{{- define "nodeshare.whereAgentsWere" -}}
{{- $terms := list -}}
{{- $tolerations := list -}}
{{- $everywhere := false -}}
{{- range $component := list "gpu" "mounts" "view" "holder" -}}
{{- $own := get $.Values $component -}}
{{- if and $own.enabled (or (ne $component "holder") $own.nodeSelector $own.affinity $own.tolerations) -}}
{{- $selector := list -}}
{{- range $key, $value := $own.nodeSelector | default $.Values.nodeSelector -}}
{{- $selector = append $selector (dict "key" $key "operator" "In" "values" (list $value)) -}}
{{- end -}}
{{- $affinity := $own.affinity | default $.Values.affinity | default dict -}}
{{- range $term := ((($affinity.nodeAffinity).requiredDuringSchedulingIgnoredDuringExecution).nodeSelectorTerms | default (list dict)) -}}
{{- $expressions := concat ($term.matchExpressions | default list) $selector -}}
{{- $whole := omit $term "matchExpressions" -}}
{{- if $expressions -}}{{- $_ := set $whole "matchExpressions" $expressions -}}{{- end -}}
{{- if $whole -}}{{- $terms = append $terms $whole -}}{{- else -}}{{- $everywhere = true -}}{{- end -}}
{{- end -}}
{{- $tolerations = concat $tolerations ($own.tolerations | default $.Values.tolerations | default list) -}}
{{- end -}}
{{- end -}}
{{- $found := dict "tolerations" (uniq $tolerations) -}}
{{- if not $everywhere -}}
{{- $required := dict "nodeSelectorTerms" (uniq $terms) -}}
{{- $_ := set $found "affinity" (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" $required)) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end }}

{{/* root, own, taints. Agents have to come to a node whose start-up taints they take away. */}}
{{- define "nodeshare.tolerations" -}}
{{- $found := .own | default .root.Values.tolerations | default list -}}
{{- $all := false -}}
{{- range $found -}}
{{- if and (eq (.operator | default "Equal") "Exists") (not .key) (not .effect) -}}{{- $all = true -}}{{- end -}}
{{- end -}}
{{- if not $all -}}
{{- range $agent, $key := .taints -}}
{{- if $key -}}{{- $found = append $found (dict "key" $key "operator" "Exists") -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end }}

{{/* What the device plugin needs besides hostPID (deploy/README.md says for what). */}}
{{- define "nodeshare.gpuCapabilities" -}}
{{- $found := list "DAC_READ_SEARCH" "KILL" "SYS_PTRACE" -}}
{{- if .Values.gpu.migMonitor -}}{{- $found = append $found "SYS_ADMIN" -}}{{- end -}}
{{- toYaml $found -}}
{{- end }}

{{/* Labels of targets, as the rules in deploy/prometheus expect them. honorLabels: our series name the pod that they tell about. An
agent's own pod is no label: its successor goes on with the series. */}}
{{- define "nodeshare.relabelings" -}}
honorLabels: true
relabelings:
  - {targetLabel: job, replacement: {{ include "nodeshare.fullname" . }}}
  - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: node}
  - {sourceLabels: [__meta_kubernetes_pod_node_name, __meta_kubernetes_pod_container_port_number], separator: ":", targetLabel: instance}
  {{- range $component, $section := dict "gpu" "gpu_plugin" "mounts" "fuse_mounter" "view" "lxcfs_helper" }}
  - {sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_component], regex: {{ $component }}, targetLabel: agent, replacement: {{ $section }}}
  {{- end }}
  - {action: labeldrop, regex: namespace|pod|container|endpoint|service}
{{- end }}
