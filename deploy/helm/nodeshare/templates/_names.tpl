{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{/* Names and labels. A name is at most 40 characters: with the longest suffix, and what a DaemonSet adds to its pods, it
stays within 63. One that is longer is cut and gets a digest, so that two long release names stay two. */}}

{{- define "nodeshare.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "nodeshare.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- if gt (len $full) 40 -}}
{{- printf "%s-%s" ($full | trunc 31 | trimSuffix "-") (sha256sum $full | trunc 8) -}}
{{- else -}}
{{- $full -}}
{{- end -}}
{{- end }}

{{/* Immutable in a DaemonSet: nothing here may ever change, or depend on a version or a value. */}}
{{- define "nodeshare.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nodeshare.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* root, component: of pods. Nothing that changes with the chart alone: it would replace every pod. */}}
{{- define "nodeshare.podLabels" -}}
{{- $ours := include "nodeshare.selectorLabels" . | fromYaml -}}
{{- toYaml (merge $ours (dict "app.kubernetes.io/part-of" "nodeshare") (.root.Values.podLabels | default dict) (.root.Values.commonLabels | default dict)) -}}
{{- end }}

{{/* root, component (empty: of the release). */}}
{{- define "nodeshare.labels" -}}
{{ include "nodeshare.selectorLabels" . }}
app.kubernetes.io/part-of: nodeshare
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* root, component. */}}
{{- define "nodeshare.metadata" -}}
name: {{ include "nodeshare.fullname" .root }}{{ with .component }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "nodeshare.labels" . | nindent 2 }}
{{- end }}

{{- define "nodeshare.serviceAccountName" -}}
{{- if .root.Values.serviceAccounts.create -}}
{{ include "nodeshare.fullname" .root }}-{{ .component }}
{{- else -}}
{{ get .root.Values.serviceAccounts.names .component | default "default" }}
{{- end -}}
{{- end }}

{{/* own, other: what is not in own is that of other; whoever has a tag or a digest takes neither. */}}
{{- define "nodeshare.imageOver" -}}
{{- $other := .other -}}
{{- if or .own.tag .own.digest -}}{{- $other = omit $other "tag" "digest" -}}{{- end -}}
{{- toYaml (merge (deepCopy .own) $other) -}}
{{- end }}

{{/* root, component: the image as a map. Mounts, the holder and the clean-up need clients of file systems: theirs is the second
target of the build, with "-mounts" at the end of the tag. */}}
{{- define "nodeshare.imageParts" -}}
{{- $common := merge (dict "tag" (.root.Values.image.tag | default .root.Chart.AppVersion)) .root.Values.image -}}
{{- $own := deepCopy ((get .root.Values .component).image | default dict) -}}
{{- if has .component (list "mounts" "holder" "cleanup") -}}
{{- $own = include "nodeshare.imageOver" (dict "own" $own "other" .root.Values.mounts.image) | fromYaml -}}
{{- $common = merge (dict "tag" (printf "%s-mounts" $common.tag)) (omit $common "digest" "tag") -}}
{{- end -}}
{{- include "nodeshare.imageOver" (dict "own" $own "other" $common) -}}
{{- end }}

{{- define "nodeshare.image" -}}
{{- $image := include "nodeshare.imageParts" . | fromYaml -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag }}
{{- end -}}
{{- end }}
