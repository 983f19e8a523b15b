{{/* The name of this control plane's revision: "default" without one. */}}
{{- define "istiod.revision" -}}
{{- include "istiod.text" .Values.revision | default "default" -}}
{{- end -}}

{{/* What names of objects end in: nothing, or the revision. */}}
{{- define "istiod.suffix" -}}
{{- $revision := include "istiod.revision" . -}}
{{- if ne $revision "default" }}-{{ $revision }}{{ end -}}
{{- end -}}

{{/* Where the control plane is. It must be told so, since certificates and webhooks name its namespace. */}}
{{- define "istiod.namespace" -}}
{{- if ne .Values.global.istioNamespace .Release.Namespace -}}
{{- fail (printf "global.istioNamespace is %q, but the release is in namespace %q: add --set global.istioNamespace=%s, or --namespace %s" .Values.global.istioNamespace .Release.Namespace .Release.Namespace .Values.global.istioNamespace) -}}
{{- end -}}
{{- .Release.Namespace -}}
{{- end -}}

{{/* The webhook configuration of injection. */}}
{{- define "istiod.injector" -}}
{{- $namespace := include "istiod.namespace" . -}}
istio-sidecar-injector{{ include "istiod.suffix" . }}{{ if ne $namespace "istio-system" }}-{{ $namespace }}{{ end -}}
{{- end -}}

{{/* A text, a number or a truth value as the text that it was written as. */}}
{{- define "istiod.text" -}}
{{- if kindIs "float64" . }}{{ toJson . }}{{ else if kindIs "invalid" . }}{{ else }}{{ toString . }}{{ end -}}
{{- end -}}

{{/* A mapping whose values are texts. */}}
{{- define "istiod.texts" -}}
{{- range $name, $value := . }}
{{ $name | quote }}: {{ include "istiod.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* A mapping of texts with others over it: (list below above). */}}
{{- define "istiod.over" -}}
{{- $texts := dict -}}
{{- range . }}{{ range $name, $value := . }}{{ $_ := set $texts $name $value }}{{ end }}{{ end -}}
{{- include "istiod.texts" $texts -}}
{{- end -}}

{{/* A whole number stays one; everything else is a text. */}}
{{- define "istiod.amount" -}}
{{- $text := include "istiod.text" . -}}
{{- if regexMatch "^[0-9]+$" $text }}{{ $text }}{{ else }}{{ $text | quote }}{{ end -}}
{{- end -}}

{{/* What containers ask for, and what they may use at most. */}}
{{- define "istiod.resources" -}}
{{- if and (not .requests) (not .limits) -}}
{}
{{- end -}}
{{- range $which := list "limits" "requests" -}}
{{- with index $ $which }}
{{ $which }}:
  {{- include "istiod.texts" . | trim | nindent 2 }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A whole name of an image stays, a bare one is completed: (list . name hub tag). */}}
{{- define "istiod.image" -}}
{{- $ := index . 0 -}}
{{- $name := index . 1 -}}
{{- if contains "/" $name -}}
{{- $name -}}
{{- else -}}
{{- $hub := include "istiod.text" (index . 2) | default (include "istiod.text" $.Values.global.hub) -}}
{{- $tag := include "istiod.text" (index . 3) | default (include "istiod.text" $.Values.global.tag) | default $.Chart.AppVersion -}}
{{- printf "%s/%s:%s" $hub $name $tag -}}
{{- end -}}
{{- end -}}

{{/* Secrets to pull images with. */}}
{{- define "istiod.pullSecrets" -}}
{{- range .Values.global.imagePullSecrets }}
- name: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Environment variables, by name. */}}
{{- define "istiod.env" -}}
{{- $env := dict "CLUSTER_ID" .Values.global.multiCluster.clusterName "REVISION" (include "istiod.revision" .) -}}
{{- range $name, $value := .Values.pilot.env }}{{ $_ := set $env $name $value }}{{ end -}}
{{- range $name, $value := $env }}
- name: {{ $name | quote }}
  value: {{ include "istiod.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* The address of the control plane as proxies are told it. */}}
{{- define "istiod.address" -}}
istiod{{ include "istiod.suffix" . }}.{{ include "istiod.namespace" . }}.svc:15012
{{- end -}}

{{/* The MeshConfig, with what follows from other values where it does not say otherwise. */}}
{{- define "istiod.mesh" -}}
{{- $mesh := deepCopy (.Values.meshConfig | default dict) -}}
{{- if not (hasKey $mesh "defaultConfig") }}{{ $_ := set $mesh "defaultConfig" dict }}{{ end -}}
{{- if kindIs "map" $mesh.defaultConfig -}}
{{- if not (hasKey $mesh.defaultConfig "discoveryAddress") }}{{ $_ := set $mesh.defaultConfig "discoveryAddress" (include "istiod.address" .) }}{{ end -}}
{{- end -}}
{{- if not (hasKey $mesh "trustDomain") }}{{ $_ := set $mesh "trustDomain" .Values.global.proxy.clusterDomain }}{{ end -}}
{{- if not (hasKey $mesh "rootNamespace") }}{{ $_ := set $mesh "rootNamespace" (include "istiod.namespace" .) }}{{ end -}}
{{- toYaml $mesh -}}
{{- end -}}

{{/* Amounts as injection reads them: each is a text. */}}
{{- define "istiod.amounts" -}}
{{- $texts := dict -}}
{{- range $name, $value := . }}{{ $_ := set $texts $name (include "istiod.text" $value) }}{{ end -}}
{{- toJson $texts -}}
{{- end -}}

{{/* What pods are injected with. */}}
{{- define "istiod.injection" -}}
{{- $global := .Values.global -}}
{{- $proxy := dict
  "clusterDomain" $global.proxy.clusterDomain
  "componentLogLevel" $global.proxy.componentLogLevel
  "image" (include "istiod.image" (list . $global.proxy.image "" ""))
  "logLevel" $global.proxy.logLevel
  "resources" (dict
    "requests" (include "istiod.amounts" $global.proxy.resources.requests | fromJson)
    "limits" (include "istiod.amounts" $global.proxy.resources.limits | fromJson)) -}}
{{- $injected := dict
  "caAddress" (include "istiod.address" .)
  "imagePullPolicy" $global.imagePullPolicy
  "logging" (dict "level" $global.logging.level)
  "meshID" (include "istiod.text" $global.meshID)
  "multiCluster" (dict "clusterName" (include "istiod.text" $global.multiCluster.clusterName))
  "network" (include "istiod.text" $global.network)
  "proxy" $proxy
  "proxy_init" (dict "image" (include "istiod.image" (list . $global.proxy_init.image "" ""))) -}}
{{- dict
  "global" $injected
  "revision" (include "istiod.revision" .)
  "sidecarInjectorWebhook" (dict "rewriteAppHTTPProbe" .Values.sidecarInjectorWebhook.rewriteAppHTTPProbe)
  | toPrettyJson -}}
{{- end -}}

{{/* Which pods are injected, beside what labels say. */}}
{{- define "istiod.policy" -}}
{{- dict
  "policy" "enabled"
  "neverInjectSelector" (.Values.sidecarInjectorWebhook.neverInjectSelector | default list)
  "alwaysInjectSelector" (.Values.sidecarInjectorWebhook.alwaysInjectSelector | default list)
  | toYaml -}}
{{- end -}}
