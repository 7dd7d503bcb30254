"""The rq8 decoding graph, built by hand with `onnx.helper`.

Exporters lose at least one of: the shared embedding, per-row activation scales, KV buffers
updated in place, or logits for the last n positions only. All four matter for latency.

Inputs: `input_ids [1, S] int64`, `seqlens_k [1] int32` (total length − 1), `total_len [1]
int32`, `logits_from [1] int64` (first row whose logits are wanted), and per layer
`past.L.k`, `past.L.v [1, kv_heads, capacity, head_dim] float32`.
Outputs: `logits [1, S − logits_from, vocab] float32` and `present.L.k/v`, to be bound to the
same buffers as the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.export.quantize import (
    EMBEDDING,
    Architecture,
    Float32,
    layer_matrices,
    norm_weights,
    quantize_rows,
)

_MS = "com.microsoft"
_INLINE_BYTES = 4096


class _Builder:
    """Collects nodes and initializers; every method returns the name of its output."""

    def __init__(self, shape: Architecture) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, NDArray[np.generic]] = {}
        # Activations are divided by their row's largest magnitude first, so one constant
        # scale and zero point quantise every row over its full range.
        self.constant("act.scale", np.array(1 / 127, np.float32))
        self.constant("act.zero", np.array(128, np.uint8))
        self.constant("act.tiny", np.array(1e-9, np.float32))
        self.constant("last_axis", np.array([-1], np.int64))
        self.constant("row_axis", np.array([1], np.int64))
        self.constant("end", np.array([np.iinfo(np.int64).max], np.int64))
        query, key, value = shape.qkv_sizes
        self.constant("qkv_sizes", np.array([query, key, value], np.int64))
        for kind, heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads)):
            self.constant(f"{kind}.heads", np.array([-1, heads, shape.head_dim], np.int64))
            self.constant(f"{kind}.flat", np.array([1, -1, heads * shape.head_dim], np.int64))
        positions = np.arange(shape.max_position_embeddings)[:, None]
        frequency = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
        self.constant("rope.cos", np.cos(positions * frequency).astype(np.float32))
        self.constant("rope.sin", np.sin(positions * frequency).astype(np.float32))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.initializers[name] = value
        return name

    def node(
        self, op: str, inputs: list[str], *outputs: str, ms: bool = False, **attrs: object
    ) -> str:
        domain = _MS if ms else ""
        name = f"{outputs[0]}/{op}"
        node = helper.make_node(op, inputs, list(outputs), name=name, domain=domain, **attrs)
        self.nodes.append(node)
        return outputs[-1]

    def matrix(self, name: str, weight: Float32) -> None:
        """Store `[out, in]` quantised and transposed."""
        values, scale = quantize_rows(weight)
        self.constant(f"{name}.q8", np.ascontiguousarray(values.T))
        self.constant(f"{name}.scale", scale)

    def quantize_activation(self, x: str) -> str:
        """Quantise each row of `x` by its own range; returns the prefix of the two results."""
        self.node("Abs", [x], f"{x}.abs")
        self.node("ReduceMax", [f"{x}.abs", "last_axis"], f"{x}.max", keepdims=1)
        # A row of zeros (a pad embedding) must not divide by zero.
        self.node("Max", [f"{x}.max", "act.tiny"], f"{x}.range")
        self.node("Div", [x, f"{x}.range"], f"{x}.unit")
        self.node("QuantizeLinear", [f"{x}.unit", "act.scale", "act.zero"], f"{x}.u8")
        return x

    def matmul(self, x: str, weight: str, out: str) -> str:
        """`x` must have gone through `quantize_activation`."""
        inputs = [f"{x}.u8", f"{weight}.q8", "act.scale", f"{weight}.scale", "act.zero"]
        self.node("MatMulIntegerToFloat", inputs, f"{out}.unit", ms=True)
        return self.node("Mul", [f"{out}.unit", f"{x}.range"], out)

    def embed(self, ids: str, out: str) -> str:
        """Look up rows of the head's transposed matrix, so the embedding is stored once."""
        self.node("Gather", [f"{EMBEDDING}.q8", ids], f"{out}.columns", axis=1)
        self.node("Transpose", [f"{out}.columns"], f"{out}.q8", perm=[1, 2, 0])
        self.node("Cast", [f"{out}.q8"], f"{out}.values", to=TensorProto.FLOAT)
        self.node("Gather", [f"{EMBEDDING}.scale", ids], f"{out}.scale")
        self.node("Unsqueeze", [f"{out}.scale", "last_axis"], f"{out}.scales")
        return self.node("Mul", [f"{out}.values", f"{out}.scales"], out)

    def norm(self, x: str, weight: str, out: str) -> str:
        epsilon = self.shape.rms_norm_eps
        return self.node("SimplifiedLayerNormalization", [x, weight], out, epsilon=epsilon, axis=-1)

    def add_norm(self, residual: str, x: str, weight: str, out: str) -> tuple[str, str]:
        """RMSNorm of the sum; returns it and the sum."""
        outputs = [out, "", "", f"{out}.sum"]
        epsilon = self.shape.rms_norm_eps
        inputs = [residual, x, weight]
        self.node("SkipSimplifiedLayerNormalization", inputs, *outputs, ms=True, epsilon=epsilon)
        return out, f"{out}.sum"

    def head_norm(self, x: str, kind: str, weight: str) -> str:
        """RMSNorm over each head (Qwen3's QK-norm)."""
        heads = self.node("Reshape", [x, f"{kind}.heads"], f"{x}.heads")
        return self.node(
            "Reshape", [self.norm(heads, weight, f"{x}.normed"), f"{kind}.flat"], f"{x}.flat"
        )

    def attention(self, x: str, layer: int) -> str:
        name = f"model.layers.{layer}.self_attn"
        qkv = self.matmul(self.quantize_activation(x), f"{name}.qkv_proj", f"l{layer}.qkv")
        q, k, v = (f"l{layer}.{kind}" for kind in "qkv")
        self.node("Split", [qkv, "qkv_sizes"], q, k, v, axis=-1)
        q = self.head_norm(q, "q", f"{name}.q_norm.weight")
        k = self.head_norm(k, "k", f"{name}.k_norm.weight")
        past = [f"past.{layer}.{kind}" for kind in "kv"]
        present = [f"present.{layer}.{kind}" for kind in "kv"]
        self.node(
            "GroupQueryAttention",
            [q, k, v, *past, "seqlens_k", "total_len", "rope.cos", "rope.sin"],
            f"l{layer}.attended",
            *present,
            ms=True,
            num_heads=self.shape.num_attention_heads,
            kv_num_heads=self.shape.num_key_value_heads,
            scale=self.shape.head_dim**-0.5,
            do_rotary=1,
        )
        attended = self.quantize_activation(f"l{layer}.attended")
        return self.matmul(attended, f"{name}.o_proj", f"l{layer}.o")

    def feed_forward(self, x: str, layer: int) -> str:
        name = f"model.layers.{layer}.mlp"
        self.quantize_activation(x)
        gate = self.matmul(x, f"{name}.gate_proj", f"l{layer}.gate")
        up = self.matmul(x, f"{name}.up_proj", f"l{layer}.up")
        silu = self.node("QuickGelu", [gate], f"l{layer}.silu", ms=True, alpha=1.0)
        product = self.node("Mul", [silu, up], f"l{layer}.product")
        return self.matmul(self.quantize_activation(product), f"{name}.down_proj", f"l{layer}.down")

    def decoder(self) -> None:
        residual = self.embed("input_ids", "embedded")
        x = self.norm(residual, "model.layers.0.input_layernorm.weight", "l0.in")
        last = self.shape.num_hidden_layers - 1
        for layer in range(last + 1):
            attended = self.attention(x, layer)
            weight = f"model.layers.{layer}.post_attention_layernorm.weight"
            x, residual = self.add_norm(residual, attended, weight, f"l{layer}.mid")
            update = self.feed_forward(x, layer)
            if layer < last:
                weight = f"model.layers.{layer + 1}.input_layernorm.weight"
                x, residual = self.add_norm(residual, update, weight, f"l{layer + 1}.in")
        # The head costs as much as a layer: only rows whose logits are wanted pay for it.
        rows = ["logits_from", "end", "row_axis"]
        residual = self.node("Slice", [residual, *rows], "final.residual")
        update = self.node("Slice", [update, *rows], "final.update")
        inputs = [residual, update, "model.norm.weight"]
        epsilon = self.shape.rms_norm_eps
        op = "SkipSimplifiedLayerNormalization"
        final = self.node(op, inputs, "final", ms=True, epsilon=epsilon)
        self.matmul(self.quantize_activation(final), EMBEDDING, "logits")


def build_graph(shape: Architecture, parameters: Mapping[str, Float32]) -> onnx.ModelProto:
    """The decoding graph with quantised weights.

    Args:
        shape: architecture of the checkpoint.
        parameters: Hugging Face names to float32 tensors.

    Raises:
        KeyError: a parameter is missing.
    """
    builder = _Builder(shape)
    builder.matrix(EMBEDDING, parameters[f"{EMBEDDING}.weight"])
    for layer in range(shape.num_hidden_layers):
        for name, parts in layer_matrices(layer).items():
            builder.matrix(name, np.concatenate([parameters[part] for part in parts]))
    for name in norm_weights(shape.num_hidden_layers):
        builder.constant(name, parameters[name])
    builder.decoder()

    def value(name: str, kind: int, dims: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims)

    buffer: list[int | str] = [1, shape.num_key_value_heads, "capacity", shape.head_dim]
    layers = [(layer, kind) for layer in range(shape.num_hidden_layers) for kind in "kv"]
    inputs = [
        value("input_ids", TensorProto.INT64, [1, "new"]),
        value("seqlens_k", TensorProto.INT32, [1]),
        value("total_len", TensorProto.INT32, [1]),
        value("logits_from", TensorProto.INT64, [1]),
        *(value(f"past.{layer}.{kind}", TensorProto.FLOAT, buffer) for layer, kind in layers),
    ]
    outputs = [
        value("logits", TensorProto.FLOAT, [1, "wanted", shape.vocab_size]),
        *(value(f"present.{layer}.{kind}", TensorProto.FLOAT, buffer) for layer, kind in layers),
    ]
    tensors = [numpy_helper.from_array(data, name) for name, data in builder.initializers.items()]
    graph = helper.make_graph(builder.nodes, "snowcoder", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="snowcoder")


def save_graph(model: onnx.ModelProto, directory: Path) -> list[Path]:
    """Write `model.onnx` and `model.data` (tensors over 4 KiB); returns both paths."""
    paths = [directory / "model.onnx", directory / "model.data"]
    for path in paths:
        path.unlink(missing_ok=True)  # onnx appends to an existing data file
    onnx.save(
        model,
        str(paths[0]),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=paths[1].name,
        size_threshold=_INLINE_BYTES,
    )
    paths[1].chmod(paths[0].stat().st_mode)  # onnx makes the data file private to its writer
    return paths
