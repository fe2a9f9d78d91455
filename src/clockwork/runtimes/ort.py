"""The only module that imports ONNX Runtime. All other modules import ``onnxruntime`` from this module.

ONNX Runtime 1.32 for Linux sends telemetry by default. The library writes a device id below ``~/.cache/Microsoft``, and
its own threads look up the name of a telemetry server. A call of ``disable_telemetry_events()`` after the import would
be too late. Only the environment variable below stops the telemetry, and only if it is set before the library is
loaded.
"""

import os
from typing import Final

TELEMETRY_VARIABLE: Final = "ORT_DISABLE_TELEMETRY"
"""Environment variable that switches the telemetry off. ONNX Runtime reads the variable when the library is loaded.
Child processes inherit the variable.
"""

os.environ[TELEMETRY_VARIABLE] = "1"

import onnxruntime as onnxruntime  # noqa: E402, PLC0414 - after the variable is set; taken from here by others
