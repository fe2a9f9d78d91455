"""Exports traces of inference requests as OpenTelemetry spans.

A front end asks the `Tracer` for a `Trace` when a request arrives, and ends the trace after the response. Until then,
the only work is to note a few times. A thread makes the spans and sends them to a collector (`exporting`). If requests
are not traced, no module of this package but this one is imported.

- `context`: trace contexts of clients, and the decision whether a request is sampled
- `config`: the settings, from the variables ``OTEL_*``
- `trace`: one traced request, and the parts of its time
- `tracer`: begins and ends traces
- `spans`: makes the spans; imports the OpenTelemetry SDK
- `exporting`: the queue of ended traces, and the thread that exports them
"""
