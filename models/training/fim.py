"""Fill-in-the-middle samples, cut the way the server prompts.

Layouts (ids of one sample, at most the model's context length)::

    plain  <|eot|> text
    joint  <|eot|> [context] <|suffix|> S <|prefix|> P+M <|eom|>
    sep    <|eot|> [context] <|suffix|> S <|prefix|> P <|middle|> M <|eom|>
    context: (<|file|> path \\n text)…   other files of the same repository

Joint is what inline completion uses: prefix and middle are tokenised together, and the
server heals the token under the cursor (Bavarian et al. 2022 for the suffix-first order;
`completion.prompt` builds the same ids).

A document is tokenised once; since no token crosses a line break, a cut inside a line
tokenises only the two halves of that line again.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training.syntax import Syntax

Ids = NDArray[np.uint16]

_LINE_TRIES = 4
"""To find one that is not blank: a span of nothing but a line break teaches little."""


@dataclass(frozen=True, slots=True)
class Special:
    """Ids of the special tokens that samples use."""

    eot: int = 0
    suffix: int = 1
    prefix: int = 2
    middle: int = 3
    eom: int = 4
    file: int = 5
    repo: int = 6
    pad: int = 7


@dataclass(frozen=True, slots=True)
class FimConfig:
    """Shares of the sample kinds; chosen in dev/LOG.md."""

    rate: float = 0.80
    """Share of windows cut for infilling; the rest is plain text."""
    joint: float = 0.85
    """Share of joint among the infilling samples."""
    context: float = 0.15
    """Share of infilling samples with text of other files in front."""
    context_tokens: int = 512
    max_length: int = 2048


class Document:
    """One tokenised file with the positions of its line breaks, in text and in ids."""

    __slots__ = ("breaks_ids", "breaks_text", "ids", "path", "text")

    def __init__(self, path: str, text: str, ids: Ids, starts_line: NDArray[np.bool_]) -> None:
        """`starts_line[id]` tells whether a token begins with a line break."""
        self.path, self.text, self.ids = path, text, ids
        self.breaks_ids: NDArray[np.int64] = np.flatnonzero(starts_line[ids])
        raw = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        self.breaks_text: NDArray[np.int64] = np.flatnonzero(raw == 10)
        if len(self.breaks_ids) != len(self.breaks_text):
            raise ValueError(f"{path}: the tokenizer does not keep line breaks apart")

    def line_starts(self, line: int) -> tuple[int, int]:
        """(character, id) position where line `line` begins, its leading break included."""
        if line == 0:
            return 0, 0
        if line > len(self.breaks_text):
            return len(self.text), len(self.ids)
        return int(self.breaks_text[line - 1]), int(self.breaks_ids[line - 1])

    def line_at(self, character: int) -> int:
        """Line whose piece holds the text just before this character position."""
        return bisect_left(self.breaks_text, character)

    def line_of_id(self, position: int) -> int:
        """Line of the id at `position`."""
        return bisect_right(self.breaks_ids, position)


class Sampler:
    """Cuts a repository's documents into training samples.

    Args:
        encode: text (one line at most) to ids.
        config: shares.
        special: special token ids.
        rng: the only source of randomness.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        config: FimConfig,
        rng: random.Random,
        special: Special | None = None,
    ) -> None:
        self._encode, self._config, self._rng = encode, config, rng
        self._special = special or Special()
        self._parsed: tuple[Document, Syntax] | None = None

    def samples(self, documents: list[Document]) -> Iterator[Ids]:
        """Every document of one repository segment, each of its tokens about once."""
        for document in documents:
            start = 0
            while start < len(document.ids):
                length = self._rng.choice((384, 768, 1280, 1550, 1550))
                end_line = document.line_of_id(min(start + length, len(document.ids)) - 1)
                end = document.line_starts(end_line + 1)[1]
                if end <= start or end - start > 1.2 * length:
                    end = min(start + length, len(document.ids))
                if end - start >= 24:
                    yield self._sample(document, start, end, documents)
                start = end

    def _sample(self, document: Document, start: int, end: int, siblings: list[Document]) -> Ids:
        rng, config, special = self._rng, self._config, self._special
        first, last = document.line_of_id(start), document.line_of_id(end - 1)
        if rng.random() >= config.rate or document.line_starts(first)[1] != start:
            return np.concatenate(([special.eot], document.ids[start:end])).astype(np.uint16)
        context = self._context(document, siblings) if rng.random() < config.context else []
        if rng.random() < config.joint:
            a = b = self._joint_cut(document, first, last)
            tail = [special.eom]
        else:
            a, b = self._span(document, first, last)
            tail = [special.middle, *self._encode_text(document.text[a:b]), special.eom]
        head = [special.eot, *context, special.suffix, *self._suffix(document, b), special.prefix]
        room = max(0, config.max_length - len(head) - len(tail))
        prefix = self._until(document, start, a)
        ids = head + prefix[max(0, len(prefix) - room) :] + tail
        return np.array(ids[: config.max_length], np.uint16)

    def _joint_cut(self, document: Document, first: int, last: int) -> int:
        """Where the suffix begins: most often a line end, within the last quarter or so."""
        rng = self._rng
        kind = rng.random()
        back = 1 + int(rng.random() ** 2 * min(40, last - first + 1))
        line = max(first, last + 1 - back)
        begin, stop = document.line_starts(line)[0], document.line_starts(line + 1)[0]
        if kind < 0.70:
            return stop
        text = document.text[begin:stop]
        if kind < 0.90:  # what an editor closes by itself stays right of the cursor
            tail = len(text) - len(text.rstrip(")]}\"':, \t"))
            if tail:
                return stop - rng.randint(1, tail)
        indent = len(text) - len(text.lstrip())
        return begin + rng.randint(min(indent, len(text)), len(text))

    def _span(self, document: Document, first: int, last: int) -> tuple[int, int]:
        """(begin, end) characters of a span: line rest, lines, block, syntax node or random."""
        rng = self._rng
        low, high = document.line_starts(first)[0], document.line_starts(last + 1)[0]
        for _ in range(_LINE_TRIES):
            line = rng.randint(first, last)
            begin, stop = document.line_starts(line)[0], document.line_starts(line + 1)[0]
            if document.text[begin:stop].strip():
                break
        kind = rng.random()
        if kind < 0.12:
            return rng.randint(begin, stop), stop
        if kind < 0.28:
            after = document.line_starts(min(last + 1, line + rng.randint(1, 8)))[0]
            return (begin if rng.random() < 0.6 else rng.randint(begin, stop)), after
        if kind < 0.40:
            return begin, self._block_end(document, line, last)
        if kind < 0.65 and (kinds := self._syntax(document).within(low, high)):
            return rng.choice(rng.choice(kinds))
        a, b = sorted((rng.randint(low, high), rng.randint(low, high)))
        return a, min(b, a + rng.choice((10, 40, 120, 400)))

    def _syntax(self, document: Document) -> Syntax:
        if self._parsed is None or self._parsed[0] is not document:
            self._parsed = document, Syntax(document.text)
        return self._parsed[1]

    @staticmethod
    def _block_end(document: Document, line: int, last: int) -> int:
        """End of the indented block that `line` opens or belongs to, at most 30 lines."""

        def indent(index: int) -> int | None:
            text = document.text[
                document.line_starts(index)[0] : document.line_starts(index + 1)[0]
            ]
            text = text.lstrip("\n")
            return len(text) - len(text.lstrip()) if text.strip() else None

        own = indent(line)
        end = line + 1
        while own is not None and end <= min(last, line + 30):
            depth = indent(end)
            if depth is not None and depth < max(own, 1):
                break
            end += 1
        return document.line_starts(end)[0]

    def _until(self, document: Document, start: int, cut: int) -> list[int]:
        """Ids from id position `start` (a line start) to character `cut`."""
        character, position = document.line_starts(document.line_at(cut))
        if position < start:
            return []
        whole: list[int] = document.ids[start:position].tolist()
        return whole + self._encode(document.text[character:cut])

    def _suffix(self, document: Document, cut: int) -> list[int]:
        """Ids from character `cut` on; a short suffix is as common as a long one."""
        character, position = document.line_starts(document.line_at(cut) + 1)
        head = self._encode(document.text[cut:character]) if character > cut else []
        reach = self._rng.choice((0, 40, 150, 300, 450))
        rest: list[int] = document.ids[position : position + reach].tolist()
        return (head + rest)[:450]

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, line in enumerate(text.split("\n")):
            ids += self._encode("\n" + line if index else line)
        return ids

    def _context(self, document: Document, siblings: list[Document]) -> list[int]:
        """One or two pieces of other files behind `<|file|>path`."""
        rng, special = self._rng, self._special
        ids: list[int] = []
        for _ in range(rng.choice((1, 1, 2))):
            other = rng.choice(siblings)
            if other is document or len(other.ids) < 40:
                continue
            room = rng.choice((120, 250))
            start = other.line_starts(rng.randrange(len(other.breaks_text)))[1]
            piece = other.ids[start : start + room].tolist()
            ids += [special.file, *self._encode(other.path), *piece]
        return ids[: self._config.context_tokens]
