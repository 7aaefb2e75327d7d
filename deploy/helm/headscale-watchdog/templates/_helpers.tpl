{{- define "labels" -}}
app.kubernetes.io/name: headscale
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "metadata" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: headscale
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
