"""From a float checkpoint to a verified, quantized ONNX graph."""
