"""Tiny checkpoints of every architecture that can be imported, trained on real code.

Random weights would not do: their logits are nearly flat, so a wrong graph may agree by chance
and rounding may disagree for no reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

STEPS = 300
VOCABULARY = 320
CONTEXT = 512
HELD_OUT = "dataclasses.py"
LENGTH = 128
"""Tokens of a training sequence; behind that, nothing was learnt."""
INFILLING_LENGTH = 256
"""The same for `prefix_first`."""
_BATCH, _RATE = 8, 6e-3
_IGNORED = -100
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.05,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(
        **_COMMON,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 100_000.0},
    ),
    "qwen2": lambda: transformers.Qwen2Config(**_COMMON, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**_COMMON, head_dim=32, tie_word_embeddings=True),
    "granite": lambda: transformers.GraniteConfig(
        **_COMMON,
        attention_multiplier=0.2,
        embedding_multiplier=6.0,
        residual_multiplier=0.4,
        logits_scaling=2.0,
        tie_word_embeddings=True,
    ),
    "starcoder2": lambda: transformers.Starcoder2Config(
        **_COMMON,
        use_bias=True,
        sliding_window=CONTEXT,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        attention_dropout=0.0,
    ),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=96,
        n_layer=2,
        n_head=6,
        n_inner=192,
        multi_query=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.05,
    ),
}


_LIBRARY = Path(argparse.__file__).parent


@cache
def code() -> str:
    """Python that everyone has: modules of the standard library, the held-out one left out."""
    files = [path for path in sorted(_LIBRARY.glob("[a-e]*.py")) if path.name != HELD_OUT]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def held_out() -> str:
    """Code that no checkpoint has seen."""
    return (_LIBRARY / HELD_OUT).read_text(encoding="utf-8")


QWEN = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
"""Special tokens of Qwen2.5-Coder, whose family every checkpoint here plays."""


def foreign_tokenizer(
    special: list[str], size: int = VOCABULARY, text: str | None = None
) -> tokenizers.Tokenizer:
    """A byte-level BPE as GPT-2's descendants have it, with `special` as its first ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text or code()], trainer)
    return tokenizer


def train(kind: str, tokenizer: tokenizers.Tokenizer, directory: Path) -> Path:
    """Train a checkpoint of `CONFIGS[kind]` for `STEPS` steps and save it with its tokenizer."""
    ids = torch.tensor(tokenizer.encode(code()).ids)
    generator = np.random.default_rng(0)

    def batch() -> torch.Tensor:
        starts = generator.integers(0, len(ids) - LENGTH - 1, _BATCH)
        return torch.stack([ids[start : start + LENGTH + 1] for start in starts.tolist()])

    return _fit(CONFIGS[kind](), tokenizer, directory, STEPS, batch)


def prefix_first(tokenizer: tokenizers.Tokenizer, directory: Path, steps: int) -> Path:
    """Train a checkpoint that saw prefix, suffix, middle (PSM) in that order and in no other.

    As the families that did so (arXiv 2207.14255, 2409.12186): texts are cut at characters, each
    part is tokenized by itself, and one text in ten is left whole. The first ids of `tokenizer`
    are `QWEN`.
    """
    text, generator = code(), np.random.default_rng(0)
    # Prompts must not be longer than what was learnt.
    config = transformers.Qwen2Config(
        **_COMMON
        | {
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": INFILLING_LENGTH,
        },
        tie_word_embeddings=True,
    )
    end, prefix, middle, suffix, _ = range(len(QWEN))
    characters = 4 * INFILLING_LENGTH

    def sample() -> list[int]:
        start = int(generator.integers(0, len(text) - characters))
        piece = text[text.find("\n", start) + 1 : start + characters]
        # A text ends where the window of tokens does.
        piece = piece[: tokenizer.encode(piece).offsets[: INFILLING_LENGTH - 8][-1][1]]
        if generator.random() < 0.1:
            return [*tokenizer.encode(piece).ids, end]
        first, last = sorted(generator.integers(0, len(piece) + 1, 2).tolist())
        parts = (piece[:first], piece[last:], piece[first:last])
        before, after, between = (part.ids for part in tokenizer.encode_batch(list(parts)))
        return [prefix, *before, suffix, *after, middle, *between, end]

    def batch() -> torch.Tensor:
        rows = [sample()[: INFILLING_LENGTH + 1] for _ in range(_BATCH)]
        return torch.tensor([row + [_IGNORED] * (INFILLING_LENGTH + 1 - len(row)) for row in rows])

    return _fit(config, tokenizer, directory, steps, batch)


def _fit(
    config: transformers.PretrainedConfig,
    tokenizer: tokenizers.Tokenizer,
    directory: Path,
    steps: int,
    batch: Callable[[], torch.Tensor],
) -> Path:
    """Train on `batch`es `[rows, tokens]`, whose rows may end in `_IGNORED`."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 20, 1.1 - step / steps)
        ids = batch()
        logits = model(input_ids=ids[:, :-1].clamp(min=0), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=_IGNORED
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval().save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
