"""Real-time inspection of steel strip: frames in, defect events out, and a ledger that proves what was looked at."""

import os

__version__ = "0.1.0"

# ONNX Runtime from 1.29 on reports what it runs to its makers unless this is set before it is loaded. A line's computer
# tells nobody unasked: https://github.com/microsoft/onnxruntime/pull/27379
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
