"""The formats of stored weights, and their inverse.

rq8: int8 rows with one float32 scale per output channel.
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
from models.export.decoder import (
    EMBEDDING,
    HEAD,
    POSITIONS,
    Decoder,
    Norm,
    layer_matrices,
    norm_vectors,
    source_shapes,
    table,
)
from models.registry import Manifest, load_manifest

Float32 = NDArray[np.float32]
BLOCK = 32
_MANTISSA_BITS_DROPPED = 8
# Dividing the largest magnitude by less than 8 clips it and spends the steps on the others.
_STEPS = (-8.0, -7.5, -7.0, 7.0)


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

    def decoder(self) -> Decoder:
        """The same in the terms of the graph."""
        fields = asdict(self)
        epsilon = fields.pop("rms_norm_eps")
        return Decoder(model_type="qwen3", norm_eps=epsilon, qk_norm=True, **fields)


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


def quantize_blocks(weight: Float32) -> tuple[NDArray[np.uint8], Float32]:
    """Quantise `[out, in]` in blocks of 32 inputs to 4 bits; the zero point is 8.

    Of a few scales per block, the one with the smallest squared error is taken.

    Returns:
        packed values `[out, blocks, 16]`, the even input in the low half of each byte, and
        scales `[out, blocks]`. A last block that is not full is filled with zeros.
    """
    rows, width = weight.shape
    blocks = -(-width // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :width] = weight
    split = padded.reshape(rows, blocks, BLOCK)
    place = np.abs(split).argmax(axis=2, keepdims=True)
    largest = np.take_along_axis(split, place, axis=2)
    best_error = np.full((rows, blocks), np.inf, np.float32)
    best_scale = np.ones((rows, blocks), np.float32)
    best_values = np.full(split.shape, 8, np.uint8)
    for steps in _STEPS:
        scale = np.where(largest == 0, np.float32(1), largest / np.float32(steps))
        values = np.clip(np.rint(split / scale) + 8, 0, 15).astype(np.uint8)
        error = ((values.astype(np.float32) - 8) * scale - split).astype(np.float32)
        error_sum = np.einsum("rbi,rbi->rb", error, error)
        better = error_sum < best_error
        best_error = np.where(better, error_sum, best_error)
        best_scale = np.where(better, scale[:, :, 0], best_scale)
        best_values = np.where(better[:, :, None], values, best_values)
    packed = (best_values[:, :, 0::2] | (best_values[:, :, 1::2] << 4)).astype(np.uint8)
    return packed, best_scale.astype(np.float32)


def dequantize_blocks(packed: NDArray[np.uint8], scale: Float32, width: int) -> Float32:
    """Inverse of `quantize_blocks`: `[out, width]` float32."""
    rows, blocks, _ = packed.shape
    values = np.empty((rows, blocks, BLOCK), np.float32)
    values[:, :, 0::2] = packed & 15
    values[:, :, 1::2] = packed >> 4
    whole = (values - 8) * scale.reshape(rows, blocks, 1)
    return whole.reshape(rows, blocks * BLOCK)[:, :width]


def decoder_of(manifest: Manifest) -> Decoder:
    """The decoder that a manifest describes, of a shipped or an imported model.

    Raises:
        WeightsError: the manifest's architecture is not one.
    """
    fields = manifest.architecture
    try:
        if "model_type" not in fields:
            return Architecture(**fields).decoder()
        return Decoder(**{**fields, "norm": Norm(fields["norm"])})
    except (TypeError, KeyError, ValueError) as error:
        raise WeightsError(f"{manifest.name}: malformed architecture ({error})") from error


def dequantize(weights_dir: Path) -> dict[str, Float32]:
    """Float32 parameters of a weights directory under their Hugging Face names.

    A tied `lm_head.weight` is not repeated.

    Raises:
        WeightsError: no manifest, or a graph that this version did not write.
    """
    shape = decoder_of(load_manifest(weights_dir))
    path = weights_dir / "model.onnx"
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and external-data errors share no base class
        raise WeightsError(f"cannot read {path}: {error}") from error
    stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def array(name: str) -> NDArray[Any]:
        values: NDArray[Any] = numpy_helper.to_array(stored[name])
        return values

    def weight(name: str, width: int, *, by_row: bool = False) -> Float32:
        if f"{name}.float" in stored:
            return array(f"{name}.float")
        if f"{name}.q4" in stored:
            return dequantize_blocks(array(f"{name}.q4"), array(f"{name}.scale"), width)
        values = array(f"{name}.q8")
        return dequantize_rows(values if by_row else values.T, array(f"{name}.scale"))

    parameters: dict[str, Float32] = {}
    shapes = source_shapes(shape)
    tied = shape.tie_word_embeddings
    try:
        for name in [EMBEDDING] if tied else [EMBEDDING, HEAD]:
            (source,) = table(shape, name).weights
            by_row = name == EMBEDDING and not tied
            parameters[source] = weight(name, shape.hidden_size, by_row=by_row)
        if shape.rope_theta is None:
            parameters[table(shape, POSITIONS).weights[0]] = array(f"{POSITIONS}.float")
        for layer in range(shape.num_hidden_layers):
            for matrix in layer_matrices(shape, layer):
                cuts = np.cumsum([shapes[part][0] for part in matrix.weights])[:-1]
                whole = weight(matrix.name, shapes[matrix.weights[0]][1])
                whole = whole / np.float32(matrix.factor) if matrix.factor != 1 else whole
                parameters.update(zip(matrix.weights, np.split(whole, cuts), strict=True))
                if matrix.biases:
                    bias = array(f"{matrix.name}.bias") / np.float32(matrix.factor)
                    parameters.update(zip(matrix.biases, np.split(bias, cuts), strict=True))
        for vector in norm_vectors(shape):
            values = array(vector.name) / np.float32(vector.factor)
            parameters[vector.source] = values.astype(np.float32)
    except KeyError as error:
        raise WeightsError(f"{path} lacks the tensor {error}") from error
    return parameters
