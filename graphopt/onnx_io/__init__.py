"""ONNX files in and out: load, normalise, save, and the worker process that runs onnxruntime."""
