"""Checkpoints as GGUF files, which llama.cpp, Ollama and LM Studio run.

Matrices become Q8_0 (int8 in blocks of 32) or Q4_0 (4 bits in blocks of 32); tables and head are
Q8_0 in both. Names follow llama.cpp's `llama-arch.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from models.errors import WeightsError
from models.export.decoder import (
    EMBEDDING,
    HEAD,
    POSITIONS,
    Decoder,
    Norm,
    inverse_frequencies,
    layer_matrices,
    norm_vectors,
    table,
)
from models.export.quantize import Float32, decoder_of, dequantize
from models.registry import load_manifest
from models.tokenizer import read_definition

_ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "gpt_bigcode": "starcoder",
}
_INTERLEAVED = frozenset({"llama", "granite"})
"""Architectures whose rotary pairs llama.cpp expects side by side, not half a head apart."""
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_TABLES = {
    "model.embed_tokens": "token_embd",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "model.norm": "output_norm",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
_PRETOKENIZERS = {"qwen2": "qwen2", "qwen3": "qwen2", "starcoder2": "starcoder"}
_PRETOKENIZERS |= {"gpt_bigcode": "starcoder", "granite": "starcoder"}
_OWN_TOKEN = "<|eom|>"
_OWN_PRETOKENIZER = "superbpe"
"""llama.cpp knows ways to split text by name, and ours is none of them. With this one, 98.8 % of
the tokens of Python files are ours; with Qwen's, whose architecture we share, 79 %."""
_NORMAL, _CONTROL = 1, 3


def tensor_name(parameter: str) -> str:
    """The GGUF name of a Hugging Face parameter."""
    module, _, kind = parameter.rpartition(".")
    if module in _TABLES:
        return f"{_TABLES[module]}.{kind}"
    _, _, layer, module = module.split(".", 3)
    return f"blk.{layer}.{_MODULES[module]}.{kind}"


def _interleave(weight: Float32, heads: int) -> Float32:
    """Reorder the rows of each head from halves to pairs."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_decoder(
    shape: Decoder,
    parameters: Mapping[str, Float32],
    path: Path,
    *,
    name: str,
    bits: int = 8,
    context: int | None = None,
    vocabulary: Mapping[str, Any] | None = None,
) -> None:
    """Write a GGUF file.

    Args:
        shape: architecture of the checkpoint.
        parameters: Hugging Face names to float32 tensors; each is asked for once.
        path: replaced where it exists.
        name: of the model.
        bits: 8 or 4.
        context: tokens that the model takes; those of the shape by default.
        vocabulary: a parsed `tokenizer.json`; without it, only token ids go in and out.

    Raises:
        WeightsError: the vocabulary is not a byte-level BPE.
    """
    architecture = _ARCHITECTURES[shape.model_type]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name(name)
    kinds = gguf.LlamaFileType
    writer.add_file_type(kinds.MOSTLY_Q8_0 if bits == 8 else kinds.MOSTLY_Q4_0)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(context or shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_vocab_size(shape.vocab_size)
    if shape.norm is Norm.RMS:
        writer.add_layer_norm_rms_eps(shape.norm_eps)
    else:
        writer.add_layer_norm_eps(shape.norm_eps)
    _add_rope(writer, shape)
    if shape.model_type == "granite":
        writer.add_embedding_scale(shape.embedding_multiplier)
        writer.add_attention_scale(shape.attention_scale)
        writer.add_residual_scale(shape.residual_multiplier)
        writer.add_logit_scale(shape.logits_divisor)
    if vocabulary is None:
        writer.add_tokenizer_model("none")
    else:
        _add_vocabulary(writer, shape, vocabulary)
    _add_tensors(writer, shape, parameters, bits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_rope(writer: gguf.GGUFWriter, shape: Decoder) -> None:
    if shape.rope_theta is None:
        return
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    kind = shape.rope_scaling.get("rope_type")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(shape.rope_scaling["factor"]))
    elif kind == "llama3":
        exponents = np.arange(0, shape.head_dim, 2) / shape.head_dim
        factors = shape.rope_theta**-exponents / np.array(inverse_frequencies(shape))
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))


def _add_tensors(
    writer: gguf.GGUFWriter, shape: Decoder, parameters: Mapping[str, Float32], bits: int
) -> None:
    tables = [EMBEDDING] if shape.tie_word_embeddings else [EMBEDDING, HEAD]
    eight = gguf.GGMLQuantizationType.Q8_0
    blocks = eight if bits == 8 else gguf.GGMLQuantizationType.Q4_0
    for name in tables:
        _add(writer, shape, table(shape, name).weights[0], parameters, eight)
    if shape.rope_theta is None:
        _add(writer, shape, table(shape, POSITIONS).weights[0], parameters, None)
    for vector in norm_vectors(shape):
        _add(writer, shape, vector.source, parameters, None)
    for layer in range(shape.num_hidden_layers):
        for matrix in layer_matrices(shape, layer):
            for weight in matrix.weights:
                _add(writer, shape, weight, parameters, blocks)
            for bias in matrix.biases:
                _add(writer, shape, bias, parameters, None)


def _add(
    writer: gguf.GGUFWriter,
    shape: Decoder,
    parameter: str,
    parameters: Mapping[str, Float32],
    kind: gguf.GGMLQuantizationType | None,
) -> None:
    values: NDArray[np.float32] = parameters[parameter]
    if shape.model_type in _INTERLEAVED:
        heads = {"q_proj": shape.num_attention_heads, "k_proj": shape.num_key_value_heads}
        if (module := parameter.split(".")[-2]) in heads:
            values = _interleave(values, heads[module])
    values = np.ascontiguousarray(values)
    # A row that is no multiple of the block stays as it is.
    if kind is None or values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
        writer.add_tensor(tensor_name(parameter), values)
        return
    packed = gguf.quants.quantize(values, kind)
    writer.add_tensor(tensor_name(parameter), packed, raw_dtype=kind)


def _add_vocabulary(writer: gguf.GGUFWriter, shape: Decoder, definition: Mapping[str, Any]) -> None:
    vocab: dict[str, int] = definition["model"]["vocab"]
    if definition["model"].get("byte_fallback"):
        raise WeightsError("only byte-level vocabularies can be written as GGUF")
    added = {token["content"]: int(token["id"]) for token in definition["added_tokens"]}
    texts = [f"[unused{number}]" for number in range(shape.vocab_size)]
    kinds = [_NORMAL] * shape.vocab_size
    for text, number in [*vocab.items(), *added.items()]:
        texts[number] = text
    for number in added.values():
        kinds[number] = _CONTROL
    merges = definition["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    known = _PRETOKENIZERS.get(shape.model_type, "gpt-2")
    writer.add_tokenizer_pre(_OWN_PRETOKENIZER if _OWN_TOKEN in added else known)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_add_bos_token(False)


def write_gguf(weights_dir: Path, path: Path, *, bits: int = 8, vocabulary: bool = False) -> None:
    """Write a weights directory, dequantised and quantised again, as GGUF.

    Args:
        weights_dir: shipped or imported weights.
        path: replaced where it exists.
        bits: 8 or 4.
        vocabulary: put the vocabulary into the file, for servers that take text.

    Raises:
        WeightsError: the weights cannot be read, or the vocabulary not be written.
        TokenizerError: the vocabulary cannot be read.
    """
    manifest = load_manifest(weights_dir)
    shape = decoder_of(manifest)
    tokens = read_definition(weights_dir / manifest.tokenizer) if vocabulary else None
    parameters = dequantize(weights_dir)
    context = manifest.context_length
    write_decoder(
        shape,
        parameters,
        path,
        name=manifest.name,
        bits=bits,
        context=context,
        vocabulary=tokens,
    )
