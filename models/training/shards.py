"""Corpus shards: zstd-compressed JSON lines of {"repo", "path", "text"}."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import zstandard

Document = dict[str, str]

_READ_BYTES = 1 << 20

SHARD_BYTES = 20_000_000
"""Text a shard: small, so that each of many readers decompresses only its own."""


class ShardError(Exception):
    """A shard is damaged: cut short, or not compressed by zstd."""


def write_shards(
    rows: Iterable[Document], out: Path, shard_bytes: int = SHARD_BYTES
) -> list[dict[str, object]]:
    """Write shards of about `shard_bytes` of text; returns one summary per repository."""
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, dict[str, object]] = {}
    # A long window finds what files of one repository repeat; level 12 is fast enough.
    parameters = zstandard.ZstdCompressionParameters.from_level(12, window_log=27, threads=2)
    index, size = 0, 0
    with ExitStack() as stack:
        writer = None
        for row in rows:
            if writer is None:
                raw = stack.enter_context((out / f"shard-{index:03d}.jsonl.zst").open("wb"))
                compressor = zstandard.ZstdCompressor(compression_params=parameters)
                writer = stack.enter_context(compressor.stream_writer(raw))
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            writer.write(line)
            size += len(line)
            entry = summary.setdefault(row["repo"], {"name": row["repo"], "files": 0, "bytes": 0})
            entry["files"] = int(str(entry["files"])) + 1
            entry["bytes"] = int(str(entry["bytes"])) + len(row["text"].encode())
            if size >= shard_bytes:
                stack.close()
                index, size, writer = index + 1, 0, None
    return list(summary.values())


def read_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    """The shards' JSON lines, not parsed: a reader of a part skips the rest cheaply.

    Raises:
        ShardError: one is damaged; what stood before the damage has been read by then.
    """
    for path in paths:
        # Unlike a stream reader, this tells an end that is missing from one that was reached.
        frame = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        buffer = b""
        with path.open("rb") as raw:
            while piece := raw.read(_READ_BYTES):
                try:
                    *lines, buffer = (buffer + frame.decompress(piece)).split(b"\n")
                except zstandard.ZstdError as error:
                    raise ShardError(f"{path} is damaged: {error}") from error
                yield from lines
        if not frame.eof:
            raise ShardError(f"{path} is cut short")
        if buffer:
            yield buffer


def read_shards(paths: Iterable[Path]) -> Iterator[Document]:
    """The documents of some shards.

    Raises:
        ShardError: one is damaged.
    """
    for line in read_lines(paths):
        yield json.loads(line)
