"""Our weights as a GGUF file, so that llama.cpp runs the same model.

The int8 rows are dequantised and quantised again to Q8_0 (int8 in blocks of 32): the nearest
format that llama.cpp has fast kernels for. Token ids go in and come out, so there is no vocabulary
in the file.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from models.export.quantize import EMBEDDING, Architecture, dequantize
from models.registry import load_manifest

_LAYER_TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(weights_dir: Path, path: Path) -> None:
    """Write `path` from an rq8 weights directory.

    Raises:
        WeightsError: the weights cannot be read.
    """
    manifest = load_manifest(weights_dir)
    shape = Architecture(**manifest.architecture)
    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_name(manifest.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(manifest.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_tokenizer_model("none")
    for name, weight in dequantize(weights_dir).items():
        _add(writer, _name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(parameter: str) -> str:
    """The GGUF name of a Hugging Face parameter."""
    if parameter == f"{EMBEDDING}.weight":
        return "token_embd.weight"
    if parameter == "model.norm.weight":
        return "output_norm.weight"
    layer, _, rest = parameter.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_LAYER_TENSORS[rest.removesuffix('.weight')]}.weight"


def _add(writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32]) -> None:
    if weight.ndim == 1:
        writer.add_tensor(name, np.ascontiguousarray(weight))
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
    writer.add_tensor(name, packed, raw_dtype=kind)
