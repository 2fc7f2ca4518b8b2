{{- define "syn-defender.name" -}}
{{- printf "%s" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "syn-defender.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "syn-defender.labels" -}}
{{ include "syn-defender.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The configuration file. */}}
{{- define "syn-defender.config" -}}
{{ .Values.config | trimSuffix "\n" }}
{{- if .Values.metrics.listen }}

[metrics]
listen = {{ .Values.metrics.listen | quote }}
{{- end }}
{{- end }}

{{/* A probe of a path below the address of metrics. */}}
{{- define "syn-defender.probe" -}}
{{- $colon := regexFind ":[0-9]+$" .listen -}}
{{- $host := trimSuffix $colon .listen | trimPrefix "[" | trimSuffix "]" -}}
httpGet:
  {{- if not (has $host (list "0.0.0.0" "::")) }}
  host: {{ $host | quote }}
  {{- end }}
  path: {{ .path }}
  port: {{ trimPrefix ":" $colon }}
{{- end }}
