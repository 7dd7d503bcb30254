"""The decoding graph, built by hand with `onnx.helper`.

Exporters lose at least one of: the shared embedding, per-row activation scales, KV buffers
updated in place, or logits for the last n positions only. All four matter for latency.

Inputs: `input_ids [1, S] int64`, `seqlens_k [1] int32` (total length − 1), `total_len [1]
int32`, `logits_from [1] int64` (first row whose logits are wanted), and per layer
`past.L.k`, `past.L.v [1, kv_heads, capacity, head_dim] float32`.
Outputs: `logits [1, S − logits_from, vocab] float32` and `present.L.k/v`, to be bound to the
same buffers as the past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.export.decoder import (
    EMBEDDING,
    HEAD,
    POSITIONS,
    Decoder,
    Matrix,
    Norm,
    inverse_frequencies,
    layer_matrices,
    norm_vectors,
    table,
)
from models.export.packing import Precision, pack
from models.export.quantize import BLOCK, Float32
from models.export.store import DATA, JOURNAL, Tensors, TensorStore

_MS = "com.microsoft"
GRAPH = "model.onnx"


class _Builder:
    """Collects nodes and small constants; every method returns the name of its output."""

    def __init__(self, shape: Decoder, precision: Precision) -> None:
        self.shape = shape
        self.precision = precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self._quantized: set[str] = set()
        # Activations are divided by their row's largest magnitude first, so one constant
        # scale and zero point quantise every row over its full range.
        self.constant("act.scale", np.array(1 / 127, np.float32))
        self.constant("act.zero", np.array(128, np.uint8))
        self.constant("act.tiny", np.array(1e-9, np.float32))
        self.constant("last_axis", np.array([-1], np.int64))
        self.constant("row_axis", np.array([1], np.int64))
        self.constant("end", np.array([np.iinfo(np.int64).max], np.int64))
        self.constant("qkv_sizes", np.array(shape.qkv_sizes, np.int64))
        for kind, heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads)):
            self.constant(f"{kind}.heads", np.array([-1, heads, shape.head_dim], np.int64))
            self.constant(f"{kind}.flat", np.array([1, -1, heads * shape.head_dim], np.int64))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = value
        return name

    def node(
        self, op: str, inputs: list[str], *outputs: str, ms: bool = False, **attrs: object
    ) -> str:
        domain = _MS if ms else ""
        name = f"{outputs[0]}/{op}"
        node = helper.make_node(op, inputs, list(outputs), name=name, domain=domain, **attrs)
        self.nodes.append(node)
        return outputs[-1]

    def quantize_activation(self, x: str) -> None:
        """Quantise each row of `x` by its own range, once for all matrices that read it."""
        if x in self._quantized:
            return
        self._quantized.add(x)
        self.node("Abs", [x], f"{x}.abs")
        self.node("ReduceMax", [f"{x}.abs", "last_axis"], f"{x}.max", keepdims=1)
        # A row of zeros (a pad embedding) must not divide by zero.
        self.node("Max", [f"{x}.max", "act.tiny"], f"{x}.range")
        self.node("Div", [x, f"{x}.range"], f"{x}.unit")
        self.node("QuantizeLinear", [f"{x}.unit", "act.scale", "act.zero"], f"{x}.u8")

    def matmul(self, x: str, name: str, out: str, *, width: int, biased: bool = False) -> str:
        """`x` times the matrix `name` with `width` outputs."""
        precision = self.precision.of(name)
        product = f"{out}.product" if biased else out
        if precision is Precision.FLOAT:
            self.node("FusedMatMul", [x, f"{name}.float"], product, ms=True, transB=1)
        elif precision is Precision.Q4:
            inputs = [x, f"{name}.q4", f"{name}.scale"]
            attributes = {"K": self._inputs(name), "N": width, "bits": 4, "block_size": BLOCK}
            self.node("MatMulNBits", inputs, product, ms=True, **attributes, accuracy_level=4)
        else:
            self.quantize_activation(x)
            inputs = [f"{x}.u8", f"{name}.q8", "act.scale", f"{name}.scale", "act.zero"]
            self.node("MatMulIntegerToFloat", inputs, f"{product}.unit", ms=True)
            self.node("Mul", [f"{product}.unit", f"{x}.range"], product)
        return self.node("Add", [product, f"{name}.bias"], out) if biased else product

    def _inputs(self, name: str) -> int:
        if name.endswith("down_proj"):
            return self.shape.intermediate_size
        query, _, _ = self.shape.qkv_sizes
        return query if name.endswith("o_proj") else self.shape.hidden_size

    def embed(self, ids: str, out: str) -> str:
        """Look up rows; a tied embedding is stored once, as the head's transposed matrix."""
        if self.precision is Precision.FLOAT:
            return self.node("Gather", [f"{EMBEDDING}.float", ids], out)
        if self.shape.tie_word_embeddings:
            self.node("Gather", [f"{EMBEDDING}.q8", ids], f"{out}.columns", axis=1)
            self.node("Transpose", [f"{out}.columns"], f"{out}.q8", perm=[1, 2, 0])
        else:
            self.node("Gather", [f"{EMBEDDING}.q8", ids], f"{out}.q8")
        self.node("Cast", [f"{out}.q8"], f"{out}.values", to=TensorProto.FLOAT)
        self.node("Gather", [f"{EMBEDDING}.scale", ids], f"{out}.scale")
        self.node("Unsqueeze", [f"{out}.scale", "last_axis"], f"{out}.scales")
        return self.node("Mul", [f"{out}.values", f"{out}.scales"], out)

    def add_positions(self, x: str) -> str:
        """Add the learned embedding of each token's position."""
        self.constant("one", np.array(1, np.int64))
        self.constant("scalar", np.array([], np.int64))
        self.node("Shape", ["input_ids"], "rows", start=1, end=2)
        self.node("Cast", ["total_len"], "total", to=TensorProto.INT64)
        self.node("Sub", ["total", "rows"], "first")
        bounds = [self.node("Reshape", [n, "scalar"], f"{n}.scalar") for n in ("first", "total")]
        self.node("Range", [*bounds, "one"], "positions")
        self.node("Gather", [f"{POSITIONS}.float", "positions"], "positions.embedded")
        return self.node("Add", [x, "positions.embedded"], f"{x}.placed")

    def norm(self, x: str, name: str, out: str) -> str:
        if self.shape.norm is Norm.RMS:
            return self.rms(x, f"{name}.weight", out)
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        return self.node("LayerNormalization", inputs, out, epsilon=self.shape.norm_eps, axis=-1)

    def rms(self, x: str, weight: str, out: str) -> str:
        epsilon = self.shape.norm_eps
        return self.node("SimplifiedLayerNormalization", [x, weight], out, epsilon=epsilon, axis=-1)

    def add_norm(self, residual: str, x: str, name: str, out: str) -> tuple[str, str]:
        """Norm of the sum; returns it and the sum."""
        outputs = [out, "", "", f"{out}.sum"]
        simple = self.shape.norm is Norm.RMS
        op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
        weights = [f"{name}.weight"] if simple else [f"{name}.weight", f"{name}.bias"]
        inputs, epsilon = [residual, x, *weights], self.shape.norm_eps
        self.node(op, inputs, *outputs, ms=True, epsilon=epsilon)
        return out, f"{out}.sum"

    def head_norm(self, x: str, kind: str, weight: str) -> str:
        """RMSNorm over each head (Qwen3's QK-norm)."""
        heads = self.node("Reshape", [x, f"{kind}.heads"], f"{x}.heads")
        return self.node(
            "Reshape", [self.rms(heads, weight, f"{x}.normed"), f"{kind}.flat"], f"{x}.flat"
        )

    def attention(self, x: str, layer: int) -> str:
        shape, name = self.shape, f"model.layers.{layer}.self_attn"
        width = sum(shape.qkv_sizes)
        fused = f"{name}.qkv_proj"
        qkv = self.matmul(x, fused, f"l{layer}.qkv", width=width, biased=shape.qkv_bias)
        q, k, v = (f"l{layer}.{kind}" for kind in "qkv")
        self.node("Split", [qkv, "qkv_sizes"], q, k, v, axis=-1)
        if shape.qk_norm:
            q = self.head_norm(q, "q", f"{name}.q_norm.weight")
            k = self.head_norm(k, "k", f"{name}.k_norm.weight")
        past = [f"past.{layer}.{kind}" for kind in "kv"]
        present = [f"present.{layer}.{kind}" for kind in "kv"]
        rotary = ["rope.cos", "rope.sin"] if shape.rope_theta is not None else []
        self.node(
            "GroupQueryAttention",
            [q, k, v, *past, "seqlens_k", "total_len", *rotary],
            f"l{layer}.attended",
            *present,
            ms=True,
            num_heads=shape.num_attention_heads,
            kv_num_heads=shape.num_key_value_heads,
            scale=shape.attention_scale,
            do_rotary=int(bool(rotary)),
        )
        attended, out = f"l{layer}.attended", f"l{layer}.o"
        width, biased = shape.hidden_size, shape.out_bias
        return self.matmul(attended, f"{name}.o_proj", out, width=width, biased=biased)

    def activation(self, x: str, out: str) -> str:
        if self.shape.activation == "silu":
            return self.node("QuickGelu", [x], out, ms=True, alpha=1.0)
        approximate = "tanh" if self.shape.activation == "gelu_tanh" else "none"
        return self.node("Gelu", [x], out, approximate=approximate)

    def feed_forward(self, x: str, layer: int) -> str:
        shape, name = self.shape, f"model.layers.{layer}.mlp"
        width, biased = shape.intermediate_size, shape.mlp_bias
        up = f"l{layer}.up"
        if shape.gated:
            gate = f"l{layer}.gate"
            self.matmul(x, f"{name}.gate_proj", gate, width=width, biased=biased)
            self.matmul(x, f"{name}.up_proj", up, width=width, biased=biased)
            self.activation(gate, f"l{layer}.silu")
            wide = self.node("Mul", [f"l{layer}.silu", up], f"l{layer}.product")
        else:
            self.matmul(x, f"{name}.up_proj", up, width=width, biased=biased)
            wide = self.activation(up, f"l{layer}.product")
        out, width = f"l{layer}.down", shape.hidden_size
        return self.matmul(wide, f"{name}.down_proj", out, width=width, biased=biased)

    def decoder(self) -> None:
        shape = self.shape
        residual = self.embed("input_ids", "embedded")
        if shape.embedding_multiplier != 1:
            self.constant("embedding.factor", np.array(shape.embedding_multiplier, np.float32))
            residual = self.node("Mul", [residual, "embedding.factor"], "embedded.scaled")
        if shape.rope_theta is None:
            residual = self.add_positions(residual)
        x = self.norm(residual, "model.layers.0.input_layernorm", "l0.in")
        last = shape.num_hidden_layers - 1
        for layer in range(last + 1):
            attended = self.attention(x, layer)
            name = f"model.layers.{layer}.post_attention_layernorm"
            x, residual = self.add_norm(residual, attended, name, f"l{layer}.mid")
            update = self.feed_forward(x, layer)
            if layer < last:
                name = f"model.layers.{layer + 1}.input_layernorm"
                x, residual = self.add_norm(residual, update, name, f"l{layer + 1}.in")
        # The head costs as much as a layer: only rows whose logits are wanted pay for it.
        rows = ["logits_from", "end", "row_axis"]
        residual = self.node("Slice", [residual, *rows], "final.residual")
        update = self.node("Slice", [update, *rows], "final.update")
        final, _ = self.add_norm(residual, update, "model.norm", "final")
        head = EMBEDDING if shape.tie_word_embeddings else HEAD
        self.matmul(final, head, "logits", width=shape.vocab_size)

    def model(self, stored: list[onnx.TensorProto]) -> onnx.ModelProto:
        shape = self.shape

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
            *(
                value(f"present.{layer}.{kind}", TensorProto.FLOAT, buffer)
                for layer, kind in layers
            ),
        ]
        tensors = [numpy_helper.from_array(data, name) for name, data in self.constants.items()]
        graph = helper.make_graph(self.nodes, "snowcoder", inputs, outputs, [*tensors, *stored])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MS, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=10, producer_name="snowcoder"
        )


def _rope_tables(shape: Decoder) -> Tensors:
    positions = np.arange(shape.max_position_embeddings)[:, None]
    angles = positions * np.array(inverse_frequencies(shape))
    return {
        "rope.cos": np.cos(angles).astype(np.float32),
        "rope.sin": np.sin(angles).astype(np.float32),
    }


def _groups(
    shape: Decoder, parameters: Mapping[str, Float32], precision: Precision
) -> Iterator[tuple[str, int, Callable[[], Tensors]]]:
    """Everything stored in the data file: name, number of weights, and how to make it."""

    def packed(matrix: Matrix, by_row: bool = False) -> Callable[[], Tensors]:
        kind = precision.of(matrix.name)
        return lambda: pack(matrix, parameters, kind, by_row=by_row)

    size, tied = shape.vocab_size * shape.hidden_size, shape.tie_word_embeddings
    yield EMBEDDING, size, packed(table(shape, EMBEDDING), by_row=not tied)
    if not tied:
        yield HEAD, size, packed(table(shape, HEAD))
    query, key, value = shape.qkv_sizes
    wide = shape.intermediate_size * shape.hidden_size
    sizes = {"qkv_proj": (query + key + value) * shape.hidden_size}
    sizes |= {"o_proj": query * shape.hidden_size}
    for layer in range(shape.num_hidden_layers):
        for matrix in layer_matrices(shape, layer):
            yield matrix.name, sizes.get(matrix.name.rsplit(".", 1)[-1], wide), packed(matrix)

    def vectors() -> Tensors:
        return {
            vector.name: parameters[vector.source] * np.float32(vector.factor)
            for vector in norm_vectors(shape)
        }

    yield "norms", 0, vectors
    if shape.rope_theta is not None:
        yield "rope", 0, lambda: _rope_tables(shape)
        return
    (source,) = table(shape, POSITIONS).weights
    length = shape.max_position_embeddings
    yield POSITIONS, 0, lambda: {f"{POSITIONS}.float": parameters[source][:length]}


def write_graph(
    shape: Decoder,
    parameters: Mapping[str, Float32],
    directory: Path,
    precision: Precision = Precision.RQ8,
    *,
    key: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Write `model.onnx` and `model.data`; returns both paths.

    Args:
        shape: architecture of the checkpoint.
        parameters: Hugging Face names to float32 tensors; each is asked for once.
        directory: exists; an older graph in it is replaced.
        precision: of the matrices.
        key: with the same key, a call that was interrupted is gone on with.
        progress: called with the number of weights done since the last call.

    Raises:
        KeyError: a parameter is missing.
        OSError: the files cannot be written.
    """
    path = directory / GRAPH
    path.unlink(missing_ok=True)
    builder = _Builder(shape, precision)
    builder.decoder()
    with TensorStore(directory, key) as store:
        for group, weights, produce in _groups(shape, parameters, precision):
            store.add(group, produce)
            progress(weights)
        model = builder.model(store.protos())
    path.write_bytes(model.SerializeToString(deterministic=True))
    (directory / JOURNAL).unlink()
    return [path, directory / DATA]
