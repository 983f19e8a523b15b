{{- /* Made from the crate meltemi-install; UPDATE_GOLDEN=1 cargo test -p meltemi-install chart makes it anew. */}}
{{- define "istiod.unread" -}}
{{- $values := .Values -}}
{{- $found := list -}}
{{- range $path := list
  "base"
  "cni"
  "compatibilityVersion"
  "defaultRevision"
  "experimental"
  "gateways"
  "global.autoscalingv2API"
  "global.caAddress"
  "global.caName"
  "global.certSigners"
  "global.configCluster"
  "global.externalIstiod"
  "global.istiod"
  "global.nativeNftables"
  "global.omitSidecarInjectorConfigMap"
  "global.operatorManageWebhooks"
  "global.pilotCertProvider"
  "global.platform"
  "global.proxy.autoInject"
  "global.proxy.excludeIPRanges"
  "global.proxy.excludeInboundPorts"
  "global.proxy.excludeOutboundPorts"
  "global.proxy.holdApplicationUntilProxyStarts"
  "global.proxy.includeIPRanges"
  "global.proxy.includeInboundPorts"
  "global.proxy.includeOutboundPorts"
  "global.proxy.lifecycle"
  "global.proxy.outlierLogPath"
  "global.proxy.privileged"
  "global.proxy.readinessFailureThreshold"
  "global.proxy.readinessInitialDelaySeconds"
  "global.proxy.readinessPeriodSeconds"
  "global.proxy.startupProbe"
  "global.proxy.statusPort"
  "global.proxy.tracer"
  "global.proxy_init.forceApplyIptables"
  "global.remotePilotAddress"
  "global.sds"
  "global.sts"
  "global.tracer"
  "global.trustBundleName"
  "global.variant"
  "global.waypoint"
  "istio_cni"
  "istiodRemote"
  "meshNetworks"
  "ownerName"
  "pilot.cni"
  "pilot.configMap"
  "pilot.enabled"
  "pilot.extraContainerArgs"
  "pilot.ipFamilies"
  "pilot.ipFamilyPolicy"
  "pilot.jwksResolverExtraRootCA"
  "pilot.keepaliveMaxServerConnectionAge"
  "pilot.taint"
  "pilot.topologySpreadConstraints"
  "pilot.traceSampling"
  "pilot.trustedZtunnelNamespace"
  "pilot.volumeMounts"
  "pilot.volumes"
  "profile"
  "revisionTags"
  "telemetry"
  "ztunnel" -}}
{{- $at := $values -}}
{{- $is := true -}}
{{- range $step := splitList "." $path -}}
{{- if and $is (kindIs "map" $at) (hasKey $at $step) }}{{ $at = index $at $step }}{{ else }}{{ $is = false }}{{ end -}}
{{- end -}}
{{- if $is }}{{ $found = append $found $path }}{{ end -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}
