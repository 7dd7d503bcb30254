"""Byte-pair encoding with what a completion engine needs around it.

Our own vocabularies and those of imported models: byte-level ones, and those made by
SentencePiece, whose tokens are text with `▁` for a space and `<0x0A>` for single bytes.

Three things differ from calling the `tokenizers` library directly: text of the user
never becomes a special token, encoding is cached line by line (an edit re-tokenises one
line), and the vocabulary can be searched by bytes for token healing.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.errors import TokenizerError
from models.template import OWN_TEMPLATE, Template

_CACHED_LINES = 16_384
_CACHED_LINE_LENGTH = 512
_CACHED_PREFIXES = 512
_MOST_OPEN = 16
"""A longer word under the cursor is a key or a rule of dashes, and nobody's to complete."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_FALLBACK_BYTE = re.compile("<0x([0-9A-F]{2})>")
_COMMENT_LINE = re.compile(rb"\n\s*#")
_COMMENT = re.compile(rb"^\s*#|\n\s*#")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the special tokens, named as in `<|name|>`.

    Attributes:
        eot: begins every prompt; ends a document.
        suffix: precedes the text after the cursor.
        prefix: precedes the text before the cursor.
        middle: separates the prompt from the span to write (sep mode).
        eom: the written span meets the suffix.
        file: precedes text of another file.
        repo: precedes the name of the repository.
        pad: fills batches in training.
    """

    eot: int
    suffix: int
    prefix: int
    middle: int
    eom: int
    file: int
    repo: int
    pad: int

    def by_text(self) -> dict[str, int]:
        """Text of each special token to its id."""
        return {f"<|{name}|>": token_id for name, token_id in asdict(self).items()}


def _byte_alphabet() -> dict[str, int]:
    """Character to byte of the GPT-2 byte-level alphabet (printable bytes stand for themselves)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def split_lines(text: str) -> Iterator[str]:
    r"""Pieces of `text` cut before each line feed: `"a\n  b"` gives `"a"`, `"\n  b"`."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + 1)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end


def read_definition(path: Path | str) -> dict[str, Any]:
    """The parsed content of a `tokenizer.json`.

    Raises:
        TokenizerError: missing, unreadable or not a JSON object.
    """
    try:
        definition = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer {path}: {error.strerror}") from error
    except ValueError as error:
        raise TokenizerError(f"the tokenizer {path} is not valid JSON: {error}") from error
    if not isinstance(definition, dict):
        raise TokenizerError(f"the tokenizer {path} is malformed: not a JSON object")
    return definition


def _without_dummy_prefix(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition without the space that some vocabularies put before every text.

    We encode pieces of a document, and a space more would be a change of the document. Special
    tokens are our own business as well, so nothing is added behind the model either.
    """
    normalizer = definition.get("normalizer")
    if normalizer and normalizer["type"] == "Sequence":
        steps = [step for step in normalizer["normalizers"] if step["type"] != "Prepend"]
        normalizer = {**normalizer, "normalizers": steps}
    elif normalizer and normalizer["type"] == "Prepend":
        normalizer = None
    split = definition.get("pre_tokenizer")
    if split and split["type"] == "Sequence":
        split = {**split, "pretokenizers": list(map(_without_prefix, split["pretokenizers"]))}
    elif split:
        split = _without_prefix(split)
    return {
        **definition,
        "normalizer": normalizer,
        "pre_tokenizer": split,
        "post_processor": None,
    }


def _without_prefix(split: dict[str, Any]) -> dict[str, Any]:
    if split["type"] == "Metaspace":
        kept = {key: value for key, value in split.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    return {**split, "add_prefix_space": False} if split["type"] == "ByteLevel" else split


class Tokenizer:
    """A `tokenizer.json` with line-wise caching and byte lookup.

    Our vocabularies guarantee that pieces cut before each line feed, tokenised one by one,
    give the tokens of the whole text; `encode` relies on it. Foreign ones do not (many have
    tokens such as `):` with the line feed), so there a text is encoded whole. May be shared by
    threads.

    Attributes:
        special: ids of the special tokens by their role; those that a foreign vocabulary lacks
            are its end-of-text token.
        special_texts: text of each special token that has a role to its id.
        names_files: whether a token stands before a file's path, so that code of other files
            can be put in front.
        template: the prompt layouts.
        vocab_size: number of ids, special ones included.
        special_ids: every special id, spares included.
    """

    def __init__(
        self, definition: dict[str, Any], template: Mapping[str, Any] = OWN_TEMPLATE
    ) -> None:
        """Build from the parsed content of a `tokenizer.json` and the manifest's template.

        Raises:
            TokenizerError: it is not byte-pair encoding, or lacks the template's tokens.
        """
        model = definition["model"]
        if model.get("type", "BPE") != "BPE":
            raise TokenizerError(f"unsupported kind of tokenizer: {model['type']}, not BPE")
        added = {token["content"]: token for token in definition["added_tokens"]}
        # Runs of spaces are text, though some vocabularies have them among the added tokens.
        spaces = {
            content: token
            for content, token in added.items()
            if content.isspace() and not token.get("special")
        }
        special = {name: int(added[name]["id"]) for name in added.keys() - spaces.keys()}
        names = SpecialTokens.__dataclass_fields__
        roles: Mapping[str, str] = template.get("roles") or {n: f"<|{n}|>" for n in names}
        if missing := [text for text in roles.values() if text not in special]:
            raise TokenizerError(f"the tokenizer lacks the special tokens {' '.join(missing)}")
        self.special = SpecialTokens(
            **{name: special[roles.get(name, roles["eot"])] for name in names}
        )
        self.names_files = "file" in roles
        self.special_texts = {text: special[text] for text in roles.values()}
        self.special_ids = frozenset(special.values())
        self.template = Template.parse(template, special)
        self._line_wise = "roles" not in template
        # Without added tokens the library has no way to turn the text "<|eom|>" of a
        # source file into the id that ends a completion.
        kept = _without_dummy_prefix({**definition, "added_tokens": list(spaces.values())})
        self._library = tokenizers.Tokenizer.from_str(json.dumps(kept))
        self._splitter = self._library.pre_tokenizer
        vocab: dict[str, int] = model["vocab"]
        others = (*special.values(), *(int(token["id"]) for token in spaces.values()))
        self.vocab_size = max(max(vocab.values()), *others) + 1
        self._bytes = self._token_table(vocab, sentencepiece=bool(model.get("byte_fallback")))
        for content, token in spaces.items():
            self._bytes[int(token["id"])] = content.encode()
        # Where SentencePiece has a byte twice, as text and as <0x41>, the text comes later.
        self._ids = {data: i for i, data in enumerate(self._bytes) if data}
        self._sorted_bytes = sorted(self._ids)
        self._sorted_ids = np.array([self._ids[data] for data in self._sorted_bytes], np.int64)
        self._longest = max(map(len, self._sorted_bytes))
        self._encode_cached = lru_cache(_CACHED_LINES)(self._encode_piece)
        self._comments_cached = lru_cache(2)(self._comments)
        self._allowed_cached = lru_cache(_CACHED_PREFIXES)(self._allowed)

    @classmethod
    def from_file(cls, path: Path | str, template: Mapping[str, Any] = OWN_TEMPLATE) -> Tokenizer:
        """Read a `tokenizer.json`; `template` is the manifest's.

        Raises:
            TokenizerError: missing, unreadable, not byte-pair encoding, or without the
                template's tokens.
        """
        definition = read_definition(path)
        try:
            return cls(definition, template)
        except TokenizerError:
            raise
        except Exception as error:  # the library raises plain Exception on a malformed definition
            raise TokenizerError(f"the tokenizer {path} is malformed: {error}") from error

    def _token_table(self, vocab: dict[str, int], *, sentencepiece: bool) -> list[bytes]:
        alphabet = _byte_alphabet()
        table = [b""] * self.vocab_size
        for token, token_id in vocab.items():
            if token_id in self.special_ids:
                continue
            if sentencepiece:
                byte = _FALLBACK_BYTE.fullmatch(token)
                data = bytes.fromhex(byte[1]) if byte else token.replace("\u2581", " ").encode()
                table[token_id] = data
                continue
            try:
                table[token_id] = bytes(alphabet[character] for character in token)
            except KeyError:
                raise TokenizerError(f"token {token_id} is not byte-level: {token!r}") from None
        return table

    def _encode_piece(self, piece: str) -> tuple[int, ...]:
        return tuple(self._library.encode(piece, add_special_tokens=False).ids)

    def _pieces(self, text: str) -> Iterator[tuple[int, ...]]:
        if not text.isascii():
            # Editors may send half of a surrogate pair; UTF-8 cannot hold it.
            text = _SURROGATE.sub("\ufffd", text)
        for piece in split_lines(text) if self._line_wise else [text] if text else []:
            cache = len(piece) <= _CACHED_LINE_LENGTH
            yield self._encode_cached(piece) if cache else self._encode_piece(piece)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, never special ones. Lone surrogates count as U+FFFD."""
        return [token_id for piece in self._pieces(text) for token_id in piece]

    def encode_lines(self, text: str) -> list[list[int]]:
        """Ids per piece of `split_lines(text)`; joined they equal `encode(text)`, in our own
        vocabularies."""
        return [self.encode(piece) for piece in split_lines(text)]

    def open_tokens(self, text: str, ids: Sequence[int]) -> int:
        """How many of the last `ids` may come out otherwise once more is written behind `text`.

        They are those of the last word, which merges never join to what stands before it: behind
        `retu` come ` ret`, `u`, and behind `return` the one token ` return`. Healing only the
        last of them would ask the model for a word cut as it has never seen it.

        Args:
            text: at least the cursor's line.
            ids: what `encode` makes of it; others may stand before.
        """
        if not ids:
            return 0
        line = text[max(text.rfind("\n"), len(text) - _CACHED_LINE_LENGTH, 0) :]
        line = _SURROGATE.sub("\ufffd", line)  # as `encode` does
        # Without a splitter everything might be joined; the last token is what one can say.
        words = self._splitter.pre_tokenize_str(line) if self._splitter and line else []
        missing = len(line[words[-1][1][0] :].encode()) if words else 1
        for count in range(1, min(_MOST_OPEN, len(ids)) + 1):
            missing -= len(self._bytes[ids[-count]])
            if missing <= 0:
                return count
        return 1

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; empty for special tokens.

        Raises:
            IndexError: no such id.
        """
        return self._bytes[token_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`. Special tokens give nothing, bytes that are not UTF-8 give U+FFFD."""
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", "replace")

    def blank_line_tokens(self, ids: Sequence[int]) -> int:
        """How many of the last `ids` are a line of blanks and its line break; 0 where none is."""
        for count, index in enumerate(reversed(ids), start=1):
            data = self._bytes[index]
            if data.strip(b" \t\n"):
                return 0
            if b"\n" in data:
                return count
        return 0

    def allowed(self, remaining: bytes) -> NDArray[np.int64]:
        """Ids that may come next while `remaining` must still be reproduced (token healing).

        Either the token starts with `remaining` (it may overrun it) or it is the one with which
        `remaining` itself begins: other cuts of a word do not occur in any text. Read-only,
        ascending, never empty: single bytes are tokens.
        """
        return self._allowed_cached(remaining)

    def comment_ids(self, at_line_start: bool) -> NDArray[np.int64]:
        """Ids with which a line would begin with `#`, where it is blank so far or is not."""
        return self._comments_cached(at_line_start)

    def _comments(self, at_line_start: bool) -> NDArray[np.int64]:
        begins = _COMMENT if at_line_start else _COMMENT_LINE
        return np.array([i for i, data in enumerate(self._bytes) if begins.search(data)], np.int64)

    def _allowed(self, remaining: bytes) -> NDArray[np.int64]:
        start = bisect_left(self._sorted_bytes, remaining)
        end = bisect_left(
            self._sorted_bytes, True, start, key=lambda data: not data.startswith(remaining)
        )
        try:
            shorter = self._encode_piece(remaining.decode())[:1]
        except UnicodeDecodeError:  # inside a character: any bytes that lead on
            longest = min(len(remaining) - 1, self._longest)
            prefixes = (self._ids.get(remaining[:length]) for length in range(1, longest + 1))
            shorter = tuple(token_id for token_id in prefixes if token_id is not None)
        ids = np.union1d(self._sorted_ids[start:end], np.array(shorter, np.int64))
        ids.setflags(write=False)
        return ids


def decode_complete(data: bytes) -> str:
    """Decode UTF-8, dropping an incomplete character at the end; other bad bytes give U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
