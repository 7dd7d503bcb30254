"""From corpus shards to batches: tokenise once, cut and pack anew every epoch.

Rows of `length + 1` ids hold whole samples (best fit), padded where nothing fits; padding
takes no part in the loss. Files stay grouped by repository within a row (Arctic-SnowCoder,
section 3: better than random order), while rows of many repositories mix in a batch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.training.aligned import aligned_ids, load_aligned
from models.training.fim import Document, FimConfig, Sampler, Special
from models.training.model import IGNORE
from models.training.shards import read_lines

_BLOCK_BYTES = 2_000_000
_BATCH = 200
_SEGMENT_IDS = 500_000
"""Documents of one repository that are read together, in ids."""
_OPEN_SEGMENTS = 12
_OPEN_ROWS = 16


def load_documents(
    paths: Iterable[Path], tokenizer: Tokenizer, part: int = 0, parts: int = 1
) -> Iterator[list[list[Document]]]:
    """Tokenised documents, shard by shard, each shard's as one list a repository.

    `parts` readers get about equal shares: whole shards in turn while there is one for each reader,
    so that nobody decompresses the others'; what is left is dealt out in blocks of about 2 MB.
    """
    tokenizer.encode_special_tokens = True
    starts = np.zeros(tokenizer.get_vocab_size(), np.bool_)
    for token, index in tokenizer.get_vocab().items():
        starts[index] = token.startswith("Ċ")  # the byte-level alphabet's "\n"

    def load(lines: Iterable[bytes]) -> list[list[Document]]:
        repositories: dict[str, list[Document]] = {}
        parsed = map(json.loads, lines)
        while rows := list(islice(parsed, _BATCH)):
            encodings = tokenizer.encode_batch_fast([row["text"] for row in rows])
            for row, encoding in zip(rows, encodings, strict=True):
                ids = np.array(encoding.ids, np.uint16)
                document = Document(row["path"], row["text"], ids, starts)
                repositories.setdefault(row["repo"], []).append(document)
        return list(repositories.values())

    shards = list(paths)
    whole = len(shards) // parts * parts
    for shard in shards[part:whole:parts]:
        yield load(read_lines([shard]))
    yield load(_dealt(read_lines(shards[whole:]), part, parts))


def _dealt(lines: Iterable[bytes], part: int, parts: int) -> Iterator[bytes]:
    """Every `parts`-th block, from `part` on."""
    seen = 0
    for line in lines:
        if seen // _BLOCK_BYTES % parts == part:
            yield line
        seen += len(line)


def segments(repositories: list[list[Document]], rng: random.Random) -> list[list[Document]]:
    """Repositories cut into shuffled groups of files, the groups shuffled among each other."""
    groups = []
    for documents in repositories:
        order = rng.sample(documents, len(documents))
        group: list[Document] = []
        size = 0
        for document in order:
            group.append(document)
            size += len(document.ids)
            if size >= _SEGMENT_IDS:
                groups.append(group)
                group, size = [], 0
        if group:
            groups.append(group)
    rng.shuffle(groups)
    return groups


def pack(
    samples: Iterator[NDArray[np.uint16]], width: int, pad: int
) -> Iterator[NDArray[np.uint16]]:
    """Rows of `width` ids: each sample goes where it leaves the least room."""
    rows: list[list[NDArray[np.uint16]]] = []
    room: list[int] = []
    for sample in samples:
        fits = [(room[i] - len(sample), i) for i in range(len(rows)) if room[i] >= len(sample)]
        if fits:
            left, i = min(fits)
            rows[i].append(sample)
            room[i] = left
        else:
            if len(rows) == _OPEN_ROWS:
                i = room.index(min(room))
                yield _row(rows.pop(i), width, pad)
                room.pop(i)
            rows.append([sample])
            room.append(width - len(sample))
    for row in rows:
        yield _row(row, width, pad)


def _row(samples: list[NDArray[np.uint16]], width: int, pad: int) -> NDArray[np.uint16]:
    row = np.full(width, pad, np.uint16)
    joined = np.concatenate(samples)[:width]
    row[: len(joined)] = joined
    return row


class FimDataset(IterableDataset[NDArray[np.uint16]]):
    """Endless rows of samples; every (seed, epoch, shard of workers) is reproducible.

    Every worker process loads and tokenises its own part of the shards.

    Args:
        paths: corpus shards.
        tokenizer: fits the model.
        config: FIM shares.
        length: tokens per row without the shifted target.
        seed, rank, world: what this process reads of the whole.
        aligned: files of samples as the server prompts, see `models.training.aligned`.
        aligned_share: share of the rows that come from them.
    """

    def __init__(
        self,
        paths: list[Path],
        tokenizer: Tokenizer,
        config: FimConfig,
        length: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        aligned: Sequence[Path] = (),
        aligned_share: float = 0.0,
    ) -> None:
        self._aligned, self._aligned_share = tuple(aligned), aligned_share
        # In a random order, the same for all: the first epoch sees the shards as they come.
        self._paths = random.Random(seed).sample(paths, len(paths))
        self._tokenizer, self._config = tokenizer, config
        self._length, self._seed, self._rank, self._world = length, seed, rank, world

    def __iter__(self) -> Iterator[NDArray[np.uint16]]:
        info = get_worker_info()
        workers = info.num_workers if info else 1
        part = self._rank * workers + (info.id if info else 0)
        parts = self._world * workers
        rng = random.Random(f"{self._seed}/{part}")
        aligned = self._aligned_rows(rng, part, parts)
        for row in self._rows(self._groups(rng, part, parts), rng):
            if aligned and rng.random() < self._aligned_share:
                yield next(aligned)
            yield row

    def _groups(self, rng: random.Random, part: int, parts: int) -> Iterator[list[Document]]:
        """Endless segments; the first epoch goes along while its shards are read."""
        loaded: list[list[Document]] = []
        for repositories in load_documents(self._paths, self._tokenizer, part, parts):
            loaded += repositories
            yield from segments(repositories, rng)
        if not loaded:  # fewer blocks than workers: everyone reads everything
            loaded = [r for shard in load_documents(self._paths, self._tokenizer) for r in shard]
        if not loaded:
            raise ValueError("the corpus has no documents")
        while True:
            yield from segments(loaded, rng)

    def _aligned_rows(
        self, rng: random.Random, part: int, parts: int
    ) -> Iterator[NDArray[np.uint16]] | None:
        if not self._aligned:
            return None
        samples = load_aligned(self._aligned, part, parts)
        ids = aligned_ids(samples, self._tokenizer, self._config, rng)
        return pack(ids, self._length + 1, Special().pad)

    def _rows(
        self, groups: Iterator[list[Document]], rng: random.Random
    ) -> Iterator[NDArray[np.uint16]]:
        sampler = Sampler(
            lambda text: self._tokenizer.encode(text).ids, self._config, rng, Special()
        )
        streams: list[Iterator[NDArray[np.uint16]]] = []
        while True:
            while len(streams) < _OPEN_SEGMENTS:
                streams.append(pack(sampler.samples(next(groups)), self._length + 1, Special().pad))
            stream = rng.choice(streams)
            row = next(stream, None)
            if row is None:
                streams.remove(stream)
            else:
                yield row


def batches(dataset: FimDataset, size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, targets) `[size, length]` int64, pinned where there is a GPU."""
    loader = DataLoader(
        dataset,
        batch_size=size,
        num_workers=workers,
        collate_fn=lambda rows: torch.from_numpy(np.stack(rows).astype(np.int64)),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=8 if workers else None,
    )
    return _targets(iter(loader))  # the workers start now, not at the first batch


def _targets(rows_of_ids: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    pad = Special().pad
    for rows in rows_of_ids:
        ids, targets = rows[:, :-1].contiguous(), rows[:, 1:].clone()
        targets[targets == pad] = IGNORE
        yield ids, targets
