"""The model in PyTorch: Hugging Face `Qwen3ForCausalLM`'s architecture and names.

Written out because training wants a fused loss, zero-initialised output projections and
nothing else; checkpoints load in transformers, vLLM and llama.cpp unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  # the field's usual name
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.errors import WeightsError

IGNORE = -100
"""Target value that takes no part in the loss."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of the model; the defaults are SnowCoder-88M."""

    vocab_size: int = 16_384
    hidden_size: int = 768
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int = 4
    head_dim: int = 64
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048


class Attention(nn.Module):
    """Grouped-query attention with QK-norm and rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`[batch, length, hidden]` to the same."""
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.head_dim))
        k = self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim))
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = (_rotate(t.transpose(1, 2), cos, sin).to(v.dtype) for t in (q, k))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        result: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return result


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., hidden]` to the same."""
        result: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class Layer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`[batch, length, hidden]` to the same."""
        attended: Tensor = x + self.self_attn(self.input_layernorm(x), cos, sin)
        result: Tensor = attended + self.mlp(self.post_attention_layernorm(attended))
        return result


class Model(nn.Module):
    """The language model; tied embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        half = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(
            torch.arange(config.max_position_embeddings), config.rope_theta**-half
        ).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.apply(self._initialise)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * 0.6)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states `[batch, length, hidden]` of ids `[batch, length]`."""
        x = self.embed_tokens(ids)
        length = ids.shape[1]
        assert isinstance(self.cos, Tensor)
        assert isinstance(self.sin, Tensor)
        cos, sin = self.cos[:length].to(x.dtype), self.sin[:length].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        normed: Tensor = self.norm(x)
        return normed

    def logits(self, ids: Tensor) -> Tensor:
        """Logits of the next token `[batch, length, vocabulary]`."""
        return F.linear(self.hidden(ids), self.embed_tokens.weight)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of `targets` `[batch, length]`; `IGNORE` is left out."""
        logits = self.logits(ids)
        return F.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=IGNORE
        )

    def row_losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """`[batch]`, mean cross-entropy of each row of `targets`; `IGNORE` is left out."""
        logits = self.logits(ids)
        losses = F.cross_entropy(
            logits.transpose(1, 2).float(), targets, ignore_index=IGNORE, reduction="none"
        )
        counted: Tensor = losses.sum(1) / (targets != IGNORE).sum(1)
        return counted


def save_whole(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """Write a safetensors file, renamed when complete: a killed run leaves the one before."""
    _write_whole(path, lambda part: save_file(tensors, part, {"format": "pt", **metadata}))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f"{path.name}.part")
    write(part)
    part.replace(path)


def save_checkpoint(model: Model, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write `config.json` and `model.safetensors` as Hugging Face reads them, each whole."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "tie_word_embeddings": True, "attention_bias": False, "torch_dtype": str(dtype)[6:],
        "bos_token_id": 0, "eos_token_id": 0, "use_sliding_window": False, **asdict(model.config),
    }  # fmt: skip
    text = json.dumps(config, indent=1) + "\n"
    _write_whole(directory / "config.json", lambda part: part.write_text(text))
    tensors = {
        f"model.{name}": p.detach().to("cpu", dtype).contiguous()
        for name, p in model.state_dict().items()
    }
    save_whole(tensors, directory / "model.safetensors")


def load_checkpoint(directory: Path) -> Model:
    """The model of a Hugging Face Qwen3 checkpoint directory, float32, on the CPU.

    Raises:
        WeightsError: a file is missing, torn or of another shape.
    """
    fields = ModelConfig.__dataclass_fields__
    try:
        raw = json.loads((directory / "config.json").read_text())
        model = Model(ModelConfig(**{k: raw[k] for k in fields if k in raw}))
        model.load_state_dict(
            {
                name.removeprefix("model."): tensor.float()
                for name, tensor in load_file(directory / "model.safetensors").items()
                if name != "lm_head.weight"
            }
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"cannot read the checkpoint in {directory}: {error}") from error
    return model
