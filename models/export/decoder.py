"""The decoders that the graph can express, read from a Hugging Face `config.json`.

Llama, Qwen2, Qwen3, Granite, Starcoder2 and GPTBigCode differ in a few places only: the norm,
biases, positions, the feed-forward, a norm on queries and keys, whether the head is the
embedding, and constant factors. Each of these is a field of `Decoder`, and every architecture is
a reading of its configuration into those fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from models.errors import WeightsError

Config = Mapping[str, Any]
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
LONGEST_CONTEXT = 8192
"""Tokens; a prompt of the completion engine has 2000 at most, and rotary tables cost memory."""
_ROTARY_STEP = 16
"""What the operator that rotates and attends wants the size of a head to be a multiple of."""


class Norm(StrEnum):
    """How activations are normalised before each block."""

    RMS = "rms"
    LAYER = "layer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Shape of a decoder-only transformer with pre-norm blocks.

    Sizes are named as in the `config.json` of Llama, so that the manifest of an imported model
    reads like that of the shipped one.

    Attributes:
        model_type: Hugging Face's name of the architecture.
        max_position_embeddings: tokens that the graph takes; see `read_decoder`.
        norm, norm_eps: kind of normalisation and its epsilon.
        activation: `silu`, `gelu` or `gelu_tanh`, in the feed-forward.
        gated: the feed-forward is `down(act(gate(x)) * up(x))`, else `down(act(up(x)))`.
        rope_theta: base of the rotary positions; None where positions are learned.
        rope_scaling: `rope_type` and its parameters, empty for plain rotary positions.
        qk_norm: queries and keys are RMS-normalised per head.
        qkv_bias, out_bias, mlp_bias: projections that have a bias.
        tie_word_embeddings: the head is the embedding.
        embedding_multiplier, attention_multiplier, residual_multiplier: constant factors of the
            embedded tokens, the attention scores and what each block adds.
        logits_divisor: what the logits are divided by.
    """

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    norm: Norm = Norm.RMS
    norm_eps: float = 1e-6
    activation: str = "silu"
    gated: bool = True
    rope_theta: float | None = 10_000.0
    rope_scaling: Config = field(default_factory=dict)
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = None
    residual_multiplier: float = 1.0
    logits_divisor: float = 1.0

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Output channels of the query, key and value projections."""
        kv = self.num_key_value_heads * self.head_dim
        return self.num_attention_heads * self.head_dim, kv, kv

    @property
    def attention_scale(self) -> float:
        """Factor of the attention scores before the softmax."""
        return self.attention_multiplier or self.head_dim**-0.5

    @property
    def parameters(self) -> int:
        """Weights of the matrices, biases and norms left out."""
        query, key, value = self.qkv_sizes
        layer = self.hidden_size * (2 * query + key + value)
        layer += self.hidden_size * self.intermediate_size * (3 if self.gated else 2)
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * layer + tables * self.vocab_size * self.hidden_size


@dataclass(frozen=True, slots=True)
class Matrix:
    """A stored matrix and the checkpoint's tensors that are stacked in it along the output axis.

    `factor` is multiplied into weight and bias; `biases` is empty where there is none.
    """

    name: str
    weights: tuple[str, ...]
    biases: tuple[str, ...] = ()
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Vector:
    """A stored weight or bias of a norm and the checkpoint's tensor of it."""

    name: str
    source: str
    factor: float = 1.0


def read_decoder(config: Config) -> Decoder:
    """The decoder that a `config.json` describes.

    `max_position_embeddings` is cut to `LONGEST_CONTEXT` and to the sliding window, if the model
    has one: inside the window, attention is the same with and without it.

    Raises:
        WeightsError: an architecture or an option of it that the graph cannot express.
    """
    kind = config.get("model_type")
    if kind not in _READERS:
        known = ", ".join(sorted(_READERS))
        raise WeightsError(f"unsupported architecture {kind!r}; supported are {known}")
    try:
        shape = _READERS[kind](config)
    except KeyError as error:
        raise WeightsError(f"config.json lacks {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise WeightsError(f"config.json has a value that cannot be: {error}") from None
    if shape.rope_theta is not None and shape.head_dim % _ROTARY_STEP:
        raise WeightsError(
            f"unsupported: attention heads of {shape.head_dim}, not a multiple of {_ROTARY_STEP}"
        )
    return shape


def _rope(config: Config) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of both generations of `config.json`."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = config.get("rope_theta", parameters.pop("rope_theta", 10_000.0))
    kind = parameters.pop("type", parameters.pop("rope_type", "default"))
    if kind not in {"default", "linear", "llama3"} or config.get("partial_rotary_factor", 1) != 1:
        raise WeightsError(f"unsupported rotary positions: {kind!r} {parameters}")
    scaling = {} if kind == "default" else {"rope_type": kind, **parameters}
    return {"rope_theta": float(theta), "rope_scaling": scaling}


def _activation(config: Config, key: str = "hidden_act") -> str:
    name = config.get(key, "silu")
    if name not in _ACTIVATIONS:
        raise WeightsError(f"unsupported {key} = {name!r}")
    return _ACTIVATIONS[name]


def _window(config: Config) -> int:
    window = config.get("sliding_window")
    used = config.get("use_sliding_window", config["model_type"] == "starcoder2")
    longest = min(int(config["max_position_embeddings"]), LONGEST_CONTEXT)
    return min(longest, int(window)) if used and window else longest


def _common(config: Config) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    return {
        "model_type": config["model_type"],
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": _window(config),
        "activation": _activation(config),
        **_rope(config),
    }


def _llama(config: Config) -> Decoder:
    bias = bool(config.get("attention_bias", False))
    return Decoder(
        **_common(config),
        norm_eps=config["rms_norm_eps"],
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _granite(config: Config) -> Decoder:
    bias = bool(config.get("attention_bias", False))
    return Decoder(
        **_common(config),
        norm_eps=config["rms_norm_eps"],
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        embedding_multiplier=config.get("embedding_multiplier", 1.0),
        attention_multiplier=config.get("attention_multiplier", 1.0),
        residual_multiplier=config.get("residual_multiplier", 1.0),
        logits_divisor=config.get("logits_scaling", 1.0),
    )


def _qwen2(config: Config) -> Decoder:
    return Decoder(
        **_common(config),
        norm_eps=config["rms_norm_eps"],
        qkv_bias=True,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _qwen3(config: Config) -> Decoder:
    bias = bool(config.get("attention_bias", False))
    return Decoder(
        **{**_common(config), "head_dim": config.get("head_dim") or 128},
        norm_eps=config["rms_norm_eps"],
        qk_norm=True,
        qkv_bias=bias,
        out_bias=bias,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _starcoder2(config: Config) -> Decoder:
    bias = bool(config.get("use_bias", True))
    return Decoder(
        **_common(config),
        norm=Norm.LAYER,
        norm_eps=config["norm_epsilon"],
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
    )


def _gpt_bigcode(config: Config) -> Decoder:
    if not config.get("multi_query", True) or not config.get("scale_attn_weights", True):
        raise WeightsError("unsupported: GPTBigCode without multi_query or scale_attn_weights")
    hidden, heads = config["n_embd"], config["n_head"]
    return Decoder(
        model_type=config["model_type"],
        hidden_size=hidden,
        num_hidden_layers=config["n_layer"],
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=hidden // heads,
        intermediate_size=config.get("n_inner") or 4 * hidden,
        vocab_size=config["vocab_size"],
        max_position_embeddings=min(config["n_positions"], LONGEST_CONTEXT),
        norm=Norm.LAYER,
        norm_eps=config["layer_norm_epsilon"],
        activation=_activation({"act": config["activation_function"]}, "act"),
        gated=False,
        rope_theta=None,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
    )


_READERS: dict[str, Callable[[Config], Decoder]] = {
    "llama": _llama,
    "granite": _granite,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "starcoder2": _starcoder2,
    "gpt_bigcode": _gpt_bigcode,
}
ARCHITECTURES = frozenset(_READERS)

EMBEDDING = "model.embed_tokens"
POSITIONS = "model.embed_positions"
HEAD = "lm_head"
_BIGCODE = {
    "self_attn.qkv_proj": ("attn.c_attn",),
    "self_attn.o_proj": ("attn.c_proj",),
    "mlp.up_proj": ("mlp.c_fc",),
    "mlp.down_proj": ("mlp.c_proj",),
    "input_layernorm": ("ln_1",),
    "post_attention_layernorm": ("ln_2",),
    EMBEDDING: ("transformer.wte",),
    POSITIONS: ("transformer.wpe",),
    "model.norm": ("transformer.ln_f",),
}
_STARCODER2 = {"mlp.up_proj": ("mlp.c_fc",), "mlp.down_proj": ("mlp.c_proj",)}
_FUSED = {"self_attn.qkv_proj": tuple(f"self_attn.{name}_proj" for name in "qkv")}


def _sources(shape: Decoder, name: str) -> tuple[str, ...]:
    """The checkpoint's names of the module `name` (`model.layers.3.mlp.up_proj`)."""
    own = {"gpt_bigcode": _BIGCODE, "starcoder2": _STARCODER2}.get(shape.model_type, {})
    names = {**_FUSED, **own}
    if not name.startswith("model.layers."):
        return names.get(name, (name,))
    _, _, layer, module = name.split(".", 3)
    stem = "transformer.h" if shape.model_type == "gpt_bigcode" else "model.layers"
    return tuple(f"{stem}.{layer}.{part}" for part in names.get(module, (module,)))


def layer_matrices(shape: Decoder, layer: int) -> Iterator[Matrix]:
    """The matrices of one block, in the order in which they are used."""
    modules = {"self_attn.qkv_proj": shape.qkv_bias, "self_attn.o_proj": shape.out_bias}
    modules |= {"mlp.gate_proj": shape.mlp_bias} if shape.gated else {}
    modules |= {"mlp.up_proj": shape.mlp_bias, "mlp.down_proj": shape.mlp_bias}
    for module, biased in modules.items():
        name = f"model.layers.{layer}.{module}"
        parts = _sources(shape, name)
        adds = module in {"self_attn.o_proj", "mlp.down_proj"}
        yield Matrix(
            name,
            tuple(f"{part}.weight" for part in parts),
            tuple(f"{part}.bias" for part in parts) if biased else (),
            shape.residual_multiplier if adds else 1.0,
        )


def table(shape: Decoder, name: str) -> Matrix:
    """The matrix `EMBEDDING`, `POSITIONS` or `HEAD`."""
    return Matrix(name, tuple(f"{part}.weight" for part in _sources(shape, name)))


def norm_vectors(shape: Decoder) -> Iterator[Vector]:
    """Weights and biases of every norm. The last one carries the divisor of the logits."""
    modules = ["input_layernorm", "post_attention_layernorm"]
    names = [
        f"model.layers.{layer}.{module}"
        for layer in range(shape.num_hidden_layers)
        for module in modules
    ]
    kinds = ("weight", "bias") if shape.norm is Norm.LAYER else ("weight",)
    for name in [*names, "model.norm"]:
        factor = 1 / shape.logits_divisor if name == "model.norm" else 1.0
        (source,) = _sources(shape, name)
        for kind in kinds:
            yield Vector(f"{name}.{kind}", f"{source}.{kind}", factor)
    if shape.qk_norm:
        for layer in range(shape.num_hidden_layers):
            for kind in "qk":
                name = f"model.layers.{layer}.self_attn.{kind}_norm.weight"
                yield Vector(name, name)


def source_shapes(shape: Decoder) -> dict[str, tuple[int, ...]]:
    """Every tensor that the graph needs of a checkpoint, and its dimensions."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    query, key, value = shape.qkv_sizes
    outputs = {
        "qkv_proj": (query, key, value),
        "o_proj": (hidden,),
        "gate_proj": (wide,),
        "up_proj": (wide,),
        "down_proj": (hidden,),
    }
    inputs = {"o_proj": query, "down_proj": wide}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(shape.num_hidden_layers):
        for matrix in layer_matrices(shape, layer):
            kind = matrix.name.rsplit(".", 1)[-1]
            sizes = outputs[kind] if len(matrix.weights) > 1 else (sum(outputs[kind]),)
            for name, size in zip(matrix.weights, sizes, strict=True):
                shapes[name] = (size, inputs.get(kind, hidden))
            shapes |= {name: (size,) for name, size in zip(matrix.biases, sizes, strict=False)}
    for vector in norm_vectors(shape):
        head = "self_attn" in vector.name
        shapes[vector.source] = (shape.head_dim if head else hidden,)
    tables = [EMBEDDING] if shape.tie_word_embeddings else [EMBEDDING, HEAD]
    for name in tables:
        shapes[table(shape, name).weights[0]] = (shape.vocab_size, hidden)
    if shape.rope_theta is None:
        positions = table(shape, POSITIONS).weights[0]
        shapes[positions] = (shape.max_position_embeddings, hidden)
    return shapes


def inverse_frequencies(shape: Decoder) -> list[float]:
    """Angle per position of each pair of a head's channels, in radians."""
    assert shape.rope_theta is not None
    pairs = range(0, shape.head_dim, 2)
    plain = [shape.rope_theta ** (-pair / shape.head_dim) for pair in pairs]
    scaling = shape.rope_scaling
    if not scaling:
        return plain
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return [frequency / factor for frequency in plain]
    # Llama 3.1: low frequencies are slowed down, high ones kept, those between blended.
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = float(scaling["original_max_position_embeddings"])
    scaled = []
    for frequency in plain:
        turns = original * frequency / (2 * math.pi)
        blend = min(1.0, max(0.0, (turns - low) / (high - low)))
        scaled.append((1 - blend) * frequency / factor + blend * frequency)
    return scaled
