{{/* The name of every object. */}}
{{- define "gateway.name" -}}
{{- .Values.name | default .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* A mapping of texts with others over it: (list below above). */}}
{{- define "gateway.over" -}}
{{- $texts := dict -}}
{{- range . }}{{ range $name, $value := . }}{{ $_ := set $texts $name (toString $value) }}{{ end }}{{ end -}}
{{- toYaml $texts -}}
{{- end -}}

{{/* What finds the pods; Gateways select them by `istio`, which is the name without "istio-". */}}
{{- define "gateway.selector" -}}
app: {{ .Values.labels.app | default (include "gateway.name" .) | quote }}
istio: {{ .Values.labels.istio | default (include "gateway.name" . | trimPrefix "istio-") | quote }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "gateway.labels" -}}
{{- $own := dict "app.kubernetes.io/name" (include "gateway.name" .) "app.kubernetes.io/instance" (include "gateway.name" .) "app.kubernetes.io/managed-by" .Release.Service "app.kubernetes.io/part-of" "istio" "app.kubernetes.io/version" (replace "+" "_" .Chart.AppVersion) "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- include "gateway.over" (list $own .Values.labels (include "gateway.selector" . | fromYaml)) -}}
{{- end -}}

{{/* The revision's label, if there is a revision. */}}
{{- define "gateway.revision" -}}
{{- with .Values.revision | default "" | toString }}istio.io/rev: {{ . | quote }}{{ end -}}
{{- end -}}

{{/* What stands at the top of every object. */}}
{{- define "gateway.metadata" -}}
name: {{ include "gateway.name" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "gateway.labels" . | nindent 2 }}
{{- with .Values.annotations }}
annotations:
  {{- include "gateway.over" (list .) | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "gateway.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "gateway.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The control plane's ServiceAccount. */}}
{{- define "gateway.controlPlane" -}}
{{- $revision := .Values.revision | default "" | toString -}}
{{- $named := not (has $revision (list "" "default")) -}}
{{- .Values.rbac.controlPlane | default (ternary (printf "istiod-%s" $revision) "istiod" $named) -}}
{{- end -}}

{{/* Values of Istio's that are set, and that nothing acts on. */}}
{{- define "gateway.unread" -}}
{{- $set := list -}}
{{- range $name := list "networkGateway" "profile" "compatibilityVersion" "unprivilegedPort" "runAsRoot" -}}
{{- if hasKey $.Values $name }}{{ $set = append $set $name }}{{ end -}}
{{- end -}}
{{- toYaml $set -}}
{{- end -}}
