"""Train the tokenizer: byte-level BPE, 16,384 entries, lossless.

    python -m models.training.tokenizer OUT.json SHARD... [--sample-mb N]

Pre-tokenisation splits *before* every line break and never across one, so that
tokenising line by line equals tokenising the whole: the server keeps ids per line and
the trainer cuts spans without tokenising a document again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.training.shards import read_shards

SPECIAL_TOKENS = [
    "<|eot|>", "<|suffix|>", "<|prefix|>", "<|middle|>", "<|eom|>", "<|file|>", "<|repo|>",
    "<|pad|>", *(f"<|spare_{i}|>" for i in range(8)),
]  # fmt: skip
VOCAB_SIZE = 16_384
PATTERN = (
    r"\n[ \t]*"  # a line break with the indentation after it
    r"| ?\d"  # digits one by one
    r"|[^\sA-Za-z_\d]?[A-Za-z_]+"  # a word with the one mark before it: .append (self "name
    r"| [A-Za-z_]+"
    r"| ?[^\sA-Za-z_\d]+"  # operators and everything beyond ASCII
    r"|[ \t]+"
    r"|[^\S\n]+"  # form feeds and other rare space; never a line break
)


def train(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE tokenizer with our special tokens as ids 0..15."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=5,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m models.training.tokenizer")
    parser.add_argument("out", type=Path, help="tokenizer.json to write")
    parser.add_argument("shards", type=Path, nargs="+", help="corpus shards")
    parser.add_argument("--sample-mb", type=float, default=100, help="text to train on")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    texts = [row["text"] for row in read_shards(options.shards)]
    random.Random(options.seed).shuffle(texts)
    sample, held_out, size = [], texts[-500:], 0.0
    for text in texts[:-500]:
        sample.append(text)
        size += len(text) / 1e6
        if size > options.sample_mb:
            break
    tokenizer = train(sample)
    tokenizer.save(str(options.out))
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(held_out))
    print(f"{sum(len(t.encode()) for t in held_out) / tokens:.3f} bytes per token")


if __name__ == "__main__":
    main()
