"""Retrieved code, each piece read by itself: parallel encoding (APE, arXiv 2502.05431).

Pieces that stand in a row in front of the window are not read in a row. The keys and values of
each are computed alone behind the token that begins every text, kept by content, and copied to
where the piece stands in a prompt. A piece that was read once is free in every later prompt,
whatever stands before it; and the window is predicted better than behind pieces that saw one
another (dev/LOG.md).

Keys lie in the cache already rotated to their place, and attention depends on differences of
places alone: turning them by the distance moves a piece, no mask or position ids are needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.registry import Manifest

KeysValues = NDArray[np.float16]
"""`[2 * layers, kv_heads, tokens, head_dim]`, keys and values of a layer in turn."""

STORE_LIMIT = 16_000_000
"""Bytes: about 1,300 tokens of the 88 M model, or three prompts' pieces."""


def piece_spans(ids: Sequence[int], file_id: int, ends: frozenset[int]) -> list[tuple[int, int]]:
    """Where the pieces of a prompt lie, as (start, stop); each begins with `file_id`.

    They stand behind the first token; the first of the special ids `ends` follows the last one.
    """
    if len(ids) < 2 or ids[1] != file_id:
        return []
    spans: list[tuple[int, int]] = []
    start = 1
    for position in range(2, len(ids)):
        if ids[position] == file_id or ids[position] in ends:
            spans.append((start, position))
            start = position
            if ids[position] in ends:
                break
    return spans


class Rotation:
    """Moves rotated keys to other positions.

    The two halves of a head's width are the coordinates (RoFormer, arXiv 2104.09864).
    """

    def __init__(self, theta: float, head_dim: int) -> None:
        self._speeds = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)

    @classmethod
    def of(cls, manifest: Manifest) -> Rotation | None:
        """That of a model; None where positions are learned or scaled."""
        shape: dict[str, Any] = manifest.architecture
        if not shape.get("rope_theta") or shape.get("rope_scaling"):
            return None
        return cls(float(shape["rope_theta"]), int(shape["head_dim"]))

    def turn(self, keys: NDArray[np.float32], distance: int) -> NDArray[np.float32]:
        """`keys` `[..., head_dim]` as they are `distance` positions further on."""
        cos = np.cos(distance * self._speeds).astype(np.float32)
        sin = np.sin(distance * self._speeds).astype(np.float32)
        first, second = np.split(keys, 2, axis=-1)
        return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


class PieceStore:
    """Keys and values of pieces by their ids, the least recently used give way.

    Half precision: a piece is always placed from here, so a suggestion does not depend on
    whether the piece was there.
    """

    def __init__(self, limit: int = STORE_LIMIT) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[int, ...], KeysValues] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return sum(piece.nbytes for piece in self._held.values())

    def get(self, ids: tuple[int, ...]) -> KeysValues | None:
        """The piece with exactly these ids."""
        if (piece := self._held.get(ids)) is not None:
            self._held.move_to_end(ids)
        return piece

    def put(self, ids: tuple[int, ...], piece: KeysValues) -> None:
        """Keep a piece, if it is not larger than the limit."""
        if piece.nbytes > self._limit:
            return
        self._held[ids] = piece
        while self.nbytes > self._limit:
            self._held.popitem(last=False)
