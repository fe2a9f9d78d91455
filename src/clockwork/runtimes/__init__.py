"""Runtimes: what executes models on devices. Plug-ins behind one interface (`base`); none knows another.

What they have in common: `locating` (which file a path means), `signature` (inputs and outputs), `probe` (can requests
be batched?), `batches` (requests into a batch and back), `hardware` (the name of the CPU). `ort` imports ONNX Runtime.
"""
