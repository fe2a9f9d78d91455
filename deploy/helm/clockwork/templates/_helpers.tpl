{{- define "clockwork.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "clockwork.selector" -}}
app.kubernetes.io/name: clockwork
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "clockwork.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "clockwork.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "clockwork.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* The name of the Service through which workers reach the controller before it is ready. */}}
{{- define "clockwork.workersService" -}}
{{ include "clockwork.fullname" . }}-workers
{{- end -}}

{{/* Requests equal to limits, in whole cores: the QoS class Guaranteed. */}}
{{- define "clockwork.resources" -}}
{{- $gpus := default 0 .gpus | int -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
  {{- if $gpus }}
  nvidia.com/gpu: {{ $gpus }}
  {{- end }}
limits:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
  {{- if $gpus }}
  nvidia.com/gpu: {{ $gpus }}
  {{- end }}
{{- end -}}

{{- define "clockwork.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "clockwork.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Options of a process that clients can reach: serve or controller. */}}
{{- define "clockwork.frontArgs" -}}
- --listen=0.0.0.0:12346
- --http=0.0.0.0:8000
- --grpc=0.0.0.0:8001
- --slo={{ .Values.slo }}
- --drain-limit={{ .Values.drainLimitSeconds }}s
- --model-control-mode={{ .Values.models.controlMode }}
- --log-format=json
{{- if .Values.tls.existingSecret }}
- --tls-cert=/etc/clockwork/tls/tls.crt
- --tls-key=/etc/clockwork/tls/tls.key
{{- end }}
{{- if .Values.tokens.existingSecret }}
- --inference-token-file=/etc/clockwork/tokens/inference
- --admin-token-file=/etc/clockwork/tokens/admin
{{- end }}
{{- end -}}

{{- define "clockwork.frontPorts" -}}
- {name: native, containerPort: 12346}
- {name: http, containerPort: 8000}
- {name: grpc, containerPort: 8001}
{{- end -}}

{{- define "clockwork.frontProbes" -}}
{{- $scheme := ternary "HTTPS" "HTTP" (ne .Values.tls.existingSecret "") -}}
livenessProbe:
  httpGet: {path: /v2/health/live, port: http, scheme: {{ $scheme }}}
  periodSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /v2/health/ready, port: http, scheme: {{ $scheme }}}
  periodSeconds: 1
  failureThreshold: 1
lifecycle:
  # Traffic stops a few seconds after a pod gets SIGTERM; until then the pod must serve.
  preStop:
    exec: {command: [sleep, {{ .Values.preStopSeconds | toString | quote }}]}
{{- end -}}

{{/* preStop, the drain limit, and the time in which a worker ends. */}}
{{- define "clockwork.gracePeriod" -}}
{{ add .Values.preStopSeconds .Values.drainLimitSeconds 15 }}
{{- end -}}

{{/* Secrets of every pod. */}}
{{- define "clockwork.secretMounts" -}}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/clockwork/tls, readOnly: true}
{{- end }}
{{- if .Values.tokens.existingSecret }}
- {name: tokens, mountPath: /etc/clockwork/tokens, readOnly: true}
{{- end }}
{{- end -}}

{{- define "clockwork.secretVolumes" -}}
{{- if .Values.tls.existingSecret }}
- name: tls
  secret: {secretName: {{ .Values.tls.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- if .Values.tokens.existingSecret }}
- name: tokens
  secret: {secretName: {{ .Values.tokens.existingSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "clockwork.place" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Fails for values that contradict each other. */}}
{{- define "clockwork.check" -}}
{{- $device := ternary .Values.worker .Values.server (eq .Values.mode "fleet") -}}
{{- if and $device.gpus (ne (int $device.gpus) (int $device.devices)) -}}
{{- fail (printf "gpus is %d and devices is %d; they must be equal, because each GPU is one device" (int $device.gpus) (int $device.devices)) -}}
{{- end -}}
{{- if and (eq .Values.mode "single") (not .Values.models.names) -}}
{{- fail "models.names is empty; mode single needs at least one model" -}}
{{- end -}}
{{- if .Values.keda.enabled -}}
{{- if or (ne .Values.mode "fleet") (ne .Values.worker.kind "Deployment") -}}
{{- fail "keda.enabled needs mode fleet and worker.kind Deployment; other pods cannot be scaled by the wanted devices" -}}
{{- end -}}
{{- if lt (int .Values.keda.maxReplicas) (int .Values.keda.minReplicas) -}}
{{- fail "keda.maxReplicas is less than keda.minReplicas" -}}
{{- end -}}
{{- if and (not .Values.keda.prometheus) (or .Values.tls.existingSecret .Values.tokens.existingSecret) -}}
{{- fail "keda.prometheus is empty; with TLS or tokens, KEDA must read the metric from Prometheus" -}}
{{- end -}}
{{- end -}}
{{- end -}}
