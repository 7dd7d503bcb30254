"""Tensors and tokens: tokenizer, KV cache, ONNX session, decoding."""
