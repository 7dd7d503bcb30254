"""A tiny corpus of our own source files, and a tokenizer trained on it."""

import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.training import tokenizer as tokenizer_training
from models.training.fim import Document

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def sources() -> list[tuple[str, str]]:
    files = sorted((ROOT / "models" / "training").glob("*.py"))
    return [(f.name, f.read_text()) for f in files if f.stat().st_size > 500]


@pytest.fixture(scope="session")
def tokenizer(sources: list[tuple[str, str]]) -> Tokenizer:
    trained = tokenizer_training.train([text for _, text in sources], vocab_size=700)
    trained.encode_special_tokens = True
    return trained


@pytest.fixture(scope="session")
def starts_line(tokenizer: Tokenizer) -> np.ndarray:
    table = np.zeros(tokenizer.get_vocab_size(), np.bool_)
    for token, index in tokenizer.get_vocab().items():
        table[index] = token.startswith("Ċ")
    return table


@pytest.fixture
def documents(sources, tokenizer, starts_line) -> list[Document]:
    return [
        Document(name, text, np.array(tokenizer.encode(text).ids, np.uint16), starts_line)
        for name, text in sources
    ]


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)
