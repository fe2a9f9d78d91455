{{/* The name of a Service has no dots. With its suffixes, the name is at most 63 characters long. */}}
{{- define "clockwork.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | replace "." "-" | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "clockwork.selector" -}}
app.kubernetes.io/name: clockwork
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "clockwork.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "clockwork.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "clockwork.image" -}}
{{- if .Values.image.digest -}}
image: {{ printf "%s@%s" .Values.image.repository .Values.image.digest | quote }}
{{- else -}}
image: {{ printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) | quote }}
{{- end }}
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
{{- with .tls }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .tokens }}
- name: tokens
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* The volume with the models. */}}
{{- define "clockwork.modelsVolume" -}}
- name: models
  {{- if .Values.models.volume }}
  {{- toYaml .Values.models.volume | nindent 2 }}
  {{- else }}
  persistentVolumeClaim: {claimName: {{ .Values.models.existingClaim }}, readOnly: true}
  {{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. They do not contain the versions of the chart, so an update of the chart restarts
     only the pods that it changes. */}}
{{- define "clockwork.podMetadata" -}}
labels:
  {{- include "clockwork.selector" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How a Deployment replaces its pods. */}}
{{- define "clockwork.strategy" -}}
strategy:
  rollingUpdate: {maxSurge: {{ .rollingUpdate.maxSurge }}, maxUnavailable: {{ .rollingUpdate.maxUnavailable }}}
{{- end -}}

{{- define "clockwork.place" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Fails for values that contradict each other. */}}
{{- define "clockwork.check" -}}
{{- if not (regexMatch "^[a-z]" (include "clockwork.fullname" .)) -}}
{{- fail (printf "the name %q begins with a digit, which Services do not allow; set fullnameOverride" (include "clockwork.fullname" .)) -}}
{{- end -}}
{{- $device := ternary .Values.worker .Values.server (eq .Values.mode "fleet") -}}
{{- if and $device.gpus (ne (int $device.gpus) (int $device.devices)) -}}
{{- fail (printf "gpus is %d and devices is %d; they must be equal, because each GPU is one device" (int $device.gpus) (int $device.devices)) -}}
{{- end -}}
{{- if and (eq .Values.mode "single") (not .Values.models.names) -}}
{{- fail "models.names is empty; mode single needs at least one model" -}}
{{- end -}}
{{- if and (eq .Values.mode "single") .Values.models.push -}}
{{- fail "models.push needs mode fleet; in mode single each pod reads the models itself" -}}
{{- end -}}
{{- if and .Values.tls.workerSecret (not .Values.tls.existingSecret) -}}
{{- fail "tls.workerSecret needs tls.existingSecret, because the controller uses TLS only with its own certificate" -}}
{{- end -}}
{{- range list "server" "worker" -}}
{{- $update := (get $.Values .).rollingUpdate -}}
{{- if and (eq (toString $update.maxSurge) "0") (eq (toString $update.maxUnavailable) "0") -}}
{{- fail (printf "%s.rollingUpdate.maxSurge and maxUnavailable are both 0, so no pod could be replaced; raise one of them" .) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.mode "fleet" -}}
{{- if and .Values.worker.gpus (eq .Values.worker.runtime "auto") -}}
{{- fail "worker.runtime is auto; with worker.gpus it must be onnx or torch, because one runtime uses all memory of a GPU" -}}
{{- end -}}
{{- $fewest := ternary .Values.keda.minReplicas .Values.worker.replicas .Values.keda.enabled | int -}}
{{- if and (eq .Values.worker.kind "Deployment") $fewest (gt (int .Values.controller.workers) $fewest) -}}
{{- fail (printf "controller.workers is %d, but %s is %d, so the controller would never be ready; lower controller.workers" (int .Values.controller.workers) (ternary "keda.minReplicas" "worker.replicas" .Values.keda.enabled) $fewest) -}}
{{- end -}}
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
