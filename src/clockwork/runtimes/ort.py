"""The only module that imports ONNX Runtime: everything else takes ``onnxruntime`` from here.

The telemetry of ONNX Runtime 1.32 for Linux is on by default: it writes a device id below ``~/.cache/Microsoft`` and
resolves the name of a telemetry server from threads of its own. Calling ``disable_telemetry_events()`` after the import
would be too late. Only the environment variable below stops it, and only if it is set before the library is loaded.
"""

import os
from typing import Final

TELEMETRY_VARIABLE: Final = "ORT_DISABLE_TELEMETRY"
"""Environment variable that ONNX Runtime reads when it is loaded; child processes inherit it."""

os.environ[TELEMETRY_VARIABLE] = "1"

import onnxruntime as onnxruntime  # noqa: E402, PLC0414 - after the variable is set; taken from here by others
