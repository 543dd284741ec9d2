{{/* Names of namespaced objects are fixed: two releases in one namespace would share the operator's election, so Helm shall refuse the second. */}}

{{- define "pollux.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: pollux
{{ include "pollux.selector" . }}
{{- end }}

{{- define "pollux.selector" -}}
app.kubernetes.io/name: pollux
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* registry/repository:tag, or @digest. */}}
{{- define "pollux.image" -}}
{{- with .image -}}
{{- $name := ternary (printf "%s/%s" .registry .repository) .repository (ne .registry "") -}}
{{- if .digest -}}{{ $name }}@{{ .digest }}{{- else -}}{{ $name }}:{{ default $.root.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end }}

{{/* Pod Security "restricted"; the uid is merely not root. */}}
{{- define "pollux.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pollux.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The lease databases as {"databases": [...]}, the quickstart's among them. */}}
{{- define "pollux.leaseDatabases" -}}
{{- $databases := .Values.leaseDatabases -}}
{{- $names := list -}}
{{- range $databases -}}
{{- if has .name $names -}}{{- fail (printf "leaseDatabases: two entries are named %q; give each a name of its own" .name) -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if .Values.quickstart.postgres.enabled -}}
{{- if has "default" $names -}}{{- fail "leaseDatabases has an entry named \"default\", and quickstart.postgres.enabled would add another: rename the entry, or leave the quickstart's PostgreSQL off" -}}{{- end -}}
{{- $databases = append $databases (dict "name" "default" "secretRef" (dict "name" "pollux-postgres" "key" "uri")) -}}
{{- end -}}
{{- if not $databases -}}{{- fail "no lease database: name a Secret that holds a PostgreSQL URI (--set 'leaseDatabases[0].name=default,leaseDatabases[0].secretRef.name=SECRET'), or try Pollux with a throwaway one (--set quickstart.postgres.enabled=true)" -}}{{- end -}}
{{- dict "databases" $databases | toYaml -}}
{{- end }}

{{/* What tells this cluster from others. Without rights that span the cluster the operator cannot read it itself, so it is read here, with the installing person's rights. */}}
{{- define "pollux.clusterID" -}}
{{- if .Values.clusterID -}}
{{- .Values.clusterID -}}
{{- else if .Values.watchNamespaces -}}
{{- $system := lookup "v1" "Namespace" "" "kube-system" -}}
{{- if $system -}}{{- $system.metadata.uid -}}{{- else -}}{{- fail "watchNamespaces needs clusterID where the chart is rendered without a cluster: --set clusterID=$(kubectl get namespace kube-system -o jsonpath='{.metadata.uid}')" -}}{{- end -}}
{{- end -}}
{{- end }}

{{/* One of the three documents of files/rbac.yaml, which the controller prints (pollux-controller rbac). */}}
{{- define "pollux.rules" -}}
{{- range (.root.Files.Get "files/rbac.yaml" | splitList "\n---\n") -}}
{{- $document := fromYaml . -}}
{{- if and (eq (toString $document.kind) $.kind) (eq $document.metadata.name $.name) -}}
{{- dict "rules" $document.rules | toYaml -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Annotations of the grant Job and of what it needs; the argument is the weight (lower ones are made first). */}}
{{- define "pollux.grantHook" -}}
helm.sh/hook: post-install,post-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
