"""The rq8 weight format: int8 rows with one float32 scale per output channel, and its inverse.

A stored matrix is the transposed `[in, out]` int8 tensor `NAME.q8` and its scales
`NAME.scale [out]`. Scales have 16 significant bits, so that `q * scale` and
`127 * scale` are exact in float32: dequantising and quantising again gives the same bits,
and training can resume from shipped weights without drift.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.errors import WeightsError
from models.registry import load_manifest

Float32 = NDArray[np.float32]
EMBEDDING = "model.embed_tokens"
_MANTISSA_BITS_DROPPED = 8


@dataclass(frozen=True, slots=True)
class Architecture:
    """Shape of a Qwen3 decoder with tied embeddings (names as in its `config.json`)."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Read a Hugging Face `config.json`.

        Raises:
            WeightsError: not a Qwen3 model that the graph can express.
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        expected = {
            "model_type": (config.get("model_type"), "qwen3"),
            "hidden_act": (config.get("hidden_act", "silu"), "silu"),
            "tie_word_embeddings": (config.get("tie_word_embeddings"), True),
            "attention_bias": (config.get("attention_bias", False), False),
            "use_sliding_window": (config.get("use_sliding_window", False), False),
            "rope_type": (rope.get("rope_type", "default"), "default"),
        }
        if wrong := [f"{name} = {got!r}" for name, (got, want) in expected.items() if got != want]:
            raise WeightsError(f"cannot export this checkpoint: unsupported {', '.join(wrong)}")
        theta = config.get("rope_theta", rope.get("rope_theta"))
        fields: dict[str, Any] = {name: config.get(name) for name in cls.__dataclass_fields__}
        fields["rope_theta"] = theta
        if missing := [name for name, value in fields.items() if value is None]:
            raise WeightsError(f"config.json lacks {', '.join(missing)}")
        return cls(**fields)

    def to_config(self) -> dict[str, Any]:
        """A Hugging Face `config.json` that `from_config` reads back to the same value."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "use_sliding_window": False,
            "dtype": "float32",
        }

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Output channels of the query, key and value projections."""
        kv = self.num_key_value_heads * self.head_dim
        return self.num_attention_heads * self.head_dim, kv, kv


def quantize_rows(weight: Float32) -> tuple[NDArray[np.int8], Float32]:
    """Quantise `[out, in]` symmetrically per row.

    Returns:
        int8 values in ±127 `[out, in]` and scales `[out]`; a zero row has scale 1.
    """
    largest = np.abs(weight).max(axis=1)
    exact = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    half = np.uint32(1 << (_MANTISSA_BITS_DROPPED - 1))
    bits = (exact.view(np.uint32) + half) >> np.uint32(_MANTISSA_BITS_DROPPED)
    scale = (bits << np.uint32(_MANTISSA_BITS_DROPPED)).view(np.float32)
    values = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
    return values, scale


def dequantize_rows(values: NDArray[np.int8], scale: Float32) -> Float32:
    """Inverse of `quantize_rows`: `[out, in]` float32."""
    return values.astype(np.float32) * scale[:, None]


def layer_matrices(layer: int) -> dict[str, tuple[str, ...]]:
    """Stored matrix to the Hugging Face parameters stacked in it along the output axis."""
    attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
    fused = tuple(f"{attention}.{name}_proj.weight" for name in "qkv")
    single = [f"{attention}.o_proj", *(f"{mlp}.{name}_proj" for name in ("gate", "up", "down"))]
    return {f"{attention}.qkv_proj": fused, **{name: (f"{name}.weight",) for name in single}}


def norm_weights(layers: int) -> list[str]:
    """Hugging Face names of every RMSNorm weight; stored as float32."""
    names = ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"]
    every = [f"model.layers.{layer}.{name}.weight" for layer in range(layers) for name in names]
    return [*every, "model.norm.weight"]


def dequantize(weights_dir: Path) -> dict[str, Float32]:
    """Float32 parameters of shipped weights under their Hugging Face names.

    The tied `lm_head.weight` is not repeated.

    Raises:
        WeightsError: no manifest, or the graph is not of the rq8 format.
    """
    manifest = load_manifest(weights_dir)
    shape = Architecture(**manifest.architecture)
    try:
        model = onnx.load(str(weights_dir / "model.onnx"))
    except Exception as error:  # protobuf and external-data errors share no base class
        raise WeightsError(f"cannot read {weights_dir / 'model.onnx'}: {error}") from error
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def matrix(name: str) -> Float32:
        values = numpy_helper.to_array(stored[f"{name}.q8"]).T
        return dequantize_rows(values, numpy_helper.to_array(stored[f"{name}.scale"]))

    try:
        parameters = {f"{EMBEDDING}.weight": matrix(EMBEDDING)}
        for layer in range(shape.num_hidden_layers):
            for name, parts in layer_matrices(layer).items():
                sizes = shape.qkv_sizes if len(parts) > 1 else ()
                cuts = np.cumsum(sizes)[:-1]
                parameters.update(zip(parts, np.split(matrix(name), cuts), strict=True))
        for name in norm_weights(shape.num_hidden_layers):
            parameters[name] = numpy_helper.to_array(stored[name])
    except KeyError as error:
        raise WeightsError(f"{weights_dir / 'model.onnx'} lacks the tensor {error}") from error
    return parameters
