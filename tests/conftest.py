"""Fixtures shared by every package: a tiny random model, exported like the real one."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsp_server.paths import CACHE_VARIABLE
from models.local import LocalBackend
from models.tokenizer import Tokenizer
from telemetry.paths import DATA_VARIABLE

TINY_CONTEXT = 1024


@pytest.fixture(scope="session", autouse=True)
def data_folder(tmp_path_factory) -> Iterator[Path]:
    """Nothing is kept in the folders of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_VARIABLE, str(folder))
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture(scope="session")
def tiny_tokenizer_file(tmp_path_factory) -> Path:
    """A `tokenizer.json` of about 700 tokens, trained as the shipped one is."""
    from models.training.tokenizer import train

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train([inspect.getsource(argparse), inspect.getsource(textwrap)], 700).save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_file) -> Tokenizer:
    return Tokenizer.from_file(tiny_tokenizer_file)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_tokenizer, tiny_tokenizer_file) -> Path:
    """A random two-layer Qwen3 checkpoint directory that never emits a special token."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        vocab_size=tiny_tokenizer.vocab_size,
        max_position_embeddings=TINY_CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # all ones would hide a mixed-up norm
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.model.embed_tokens.weight[sorted(tiny_tokenizer.special_ids)] *= 0.01
    path = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(path)
    (path / "tokenizer.json").write_bytes(tiny_tokenizer_file.read_bytes())
    return path


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, tiny_checkpoint) -> Path:
    """The exported weights directory of `tiny_checkpoint`; do not alter it."""
    from models.export.__main__ import export

    path = tmp_path_factory.mktemp("weights") / "tiny"
    export(tiny_checkpoint, path, name="tiny")
    return path


@pytest.fixture
def tiny_backend(tiny_weights) -> LocalBackend:
    """A backend of its own for each test, with no KV cache yet."""
    return LocalBackend.load(tiny_weights, threads=1)
