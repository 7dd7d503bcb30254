"""Samples exactly as the server prompts (phase 3).

Reads the JSON lines that `python -m completion.context.samples` writes (also zstd-compressed):
prefix, suffix, middle, and the retrieved chunks in the order of the prompt. Each epoch draws
the layout anew: joint or sep, a short or a long window as the server uses behind a jump and in
rest, with or without the chunks, and half of the prefix's imports left out, since people import
what they use after they have used it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.training.fim import FimConfig, Special
from models.training.shards import read_lines

_IMPORT = re.compile(r"^(?:import|from) \S.*[^(\\]$")
_WINDOWS = ((400, 150), (700, 300), (1000, 450))
"""Tokens of prefix and suffix: behind a jump, between, in rest."""
_WITH_CONTEXT = 0.8
_IMPORTS_KEPT = 0.5
_FEWER_IMPORTS = 0.5
_CHARACTERS_PER_TOKEN = 5


def load_aligned(paths: Iterable[Path], part: int = 0, parts: int = 1) -> list[dict[str, Any]]:
    """Every `parts`-th sample, from `part` on.

    Raises:
        ValueError: a line is no sample, or there are fewer samples than parts.
    """
    samples = []
    for path in paths:
        lines = read_lines([path]) if path.suffix == ".zst" else path.read_bytes().splitlines()
        for number, line in enumerate(lines):
            if number % parts != part:
                continue
            try:
                sample = json.loads(line)
                sample["prefix"], sample["suffix"], sample["middle"], sample["chunks"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number + 1}: not a sample: {error}") from error
            samples.append(sample)
    if not samples:
        raise ValueError(f"no aligned samples for part {part} of {parts}")
    return samples


def aligned_ids(
    samples: list[dict[str, Any]], tokenizer: Tokenizer, config: FimConfig, rng: random.Random
) -> Iterator[NDArray[np.uint16]]:
    """Endless ids of samples, each epoch in another order and with other draws."""
    while True:
        for sample in rng.sample(samples, len(samples)):
            yield sample_ids(sample, tokenizer, config, rng)


def sample_ids(
    sample: dict[str, Any], tokenizer: Tokenizer, config: FimConfig, rng: random.Random
) -> NDArray[np.uint16]:
    """Ids of one sample, at most `config.max_length`."""
    special = Special()
    before, after = rng.choice(_WINDOWS)
    prefix = sample["prefix"]
    if rng.random() < _FEWER_IMPORTS:
        prefix = drop_imports(prefix, rng)
    prefix, middle = prefix[-before * _CHARACTERS_PER_TOKEN :], sample["middle"]
    suffix = _encode(tokenizer, sample["suffix"][: after * _CHARACTERS_PER_TOKEN])[:after]
    head = [special.eot]
    if rng.random() < _WITH_CONTEXT:
        head += _context(sample["chunks"], tokenizer, config)
    head += [special.suffix, *suffix, special.prefix]
    if rng.random() < config.joint:
        body = _encode(tokenizer, prefix + middle)[-before - len(middle) :]
        tail = [special.eom]
    else:
        body = _encode(tokenizer, prefix)[-before:]
        tail = [special.middle, *_encode(tokenizer, middle), special.eom]
    room = max(0, config.max_length - len(head) - len(tail))
    ids = head + body[max(0, len(body) - room) :] + tail
    return np.array(ids[: config.max_length], np.uint16)


def drop_imports(prefix: str, rng: random.Random) -> str:
    """The prefix without about half of its one-line top-level imports."""
    return "\n".join(
        line
        for line in prefix.split("\n")
        if not _IMPORT.match(line) or rng.random() < _IMPORTS_KEPT
    )


def _context(chunks: list[dict[str, str]], tokenizer: Tokenizer, config: FimConfig) -> list[int]:
    """`<|file|> path text` of each chunk, the last ones where not all fit: they are the best."""
    ids: list[int] = []
    for chunk in reversed(chunks):
        piece = [Special().file, *_encode(tokenizer, f"{chunk['path']}\n{chunk['text'].rstrip()}")]
        if len(ids) + len(piece) > config.context_tokens:
            break
        ids = piece + ids
    return ids


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text).ids
    return ids
