"""Export of a checkpoint to one ONNX file."""
