"""Where the gaps of training samples stand: where people type, and what is hard to write.

The curriculum of arXiv 2412.16589: calls, arguments, definitions, blocks and returned values, found
in the syntax tree and kept where a model gets them wrong (`Miner`). Beside them cursors as people
leave them: at the end of half a word, and between brackets that the editor has closed.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from enum import StrEnum

from completion.engine import CompletionEngine
from completion.types import (
    CompletionRequest,
    ConfidencePolicy,
    DecodePolicy,
    Policies,
    Suggestion,
    TriggerPolicy,
    WindowPolicy,
)
from models.backend import Backend
from models.source_tree import Positions, Span, nodes

MOST_LINES = 5
"""Of a gap."""
_SEVERAL_LINES = 0.3
_LEAST_CHARACTERS = 2
_WORD = re.compile(r"[^\W\d]\w{2,}")
_KEYWORD = re.compile(r"(?:async\s+)?(?:def|class)\s+")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_QUOTES = "\"'"


class Kind(StrEnum):
    """What a gap is."""

    LINE = "line"
    WORD = "word"
    BRACKET = "bracket"
    CALL = "call"
    ARGUMENT = "argument"
    DEFINITION = "definition"
    BLOCK = "block"
    RETURN = "return"


def typed_gap(text: str, line: int, kind: Kind, rng: random.Random) -> Span | None:
    """A gap on a line, where the cursor might stand while somebody types; None where none fits.

    Args:
        text: the file, `\\n` line ends.
        line: its number from 0, not blank.
        kind: LINE begins anywhere and may go on for further lines; WORD begins within a name and
            ends with the line; BRACKET lies between brackets of the line, the closing one right
            of it.
        rng: the only source of randomness.
    """
    lines = text.split("\n")
    start = sum(len(one) + 1 for one in lines[:line])
    own = lines[line]
    if kind is Kind.WORD:
        words = list(_WORD.finditer(own))
        if not words:
            return None
        word = rng.choice(words)
        return start + rng.randrange(word.start() + 1, word.end()), start + len(own)
    if kind is Kind.BRACKET:
        pairs = [(a, b) for a, b in _pairs(own) if own[a:b].strip()]
        if not pairs:
            return None
        begin, end = rng.choice(pairs)
        inside = own[begin:end].rstrip()
        return start + begin + rng.randrange(len(inside)), start + end
    return line_gap(text, line, rng)


def line_gap(text: str, line: int, rng: random.Random) -> Span:
    """A gap from anywhere on a line on, to its end or that of one of the next four."""
    lines = text.split("\n")
    own = lines[line]
    column = rng.randint(len(own) - len(own.lstrip()), len(own.rstrip()) - 1)
    last = line + (rng.randint(2, MOST_LINES) if rng.random() < _SEVERAL_LINES else 1)
    ends = [sum(len(one) + 1 for one in lines[:number]) for number in (line, last)]
    return ends[0] + column, min(ends[1] - 1, len(text))


def _pairs(line: str) -> Iterator[Span]:
    """What lies between brackets of a line, strings left out."""
    opened: list[tuple[str, int]] = []
    quote = ""
    for column, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _CLOSING:
            opened.append((_CLOSING[character], column + 1))
        elif opened and character == opened[-1][0]:
            yield opened.pop()[1], column


def syntax_gaps(text: str) -> dict[Kind, list[Span]]:
    """Calls, arguments, heads of definitions, blocks and returned values, of at most 5 lines.

    Empty where the text is no Python.
    """
    found: dict[Kind, list[Span]] = {}
    at = Positions(text)
    for node in nodes(text):
        for kind, (begin, end) in _gaps(node, at, text):
            gap = text[begin:end]
            if len(gap.strip()) >= _LEAST_CHARACTERS and gap.count("\n") < MOST_LINES:
                found.setdefault(kind, []).append((begin, end))
    return {kind: sorted(set(spans)) for kind, spans in found.items()}


def _gaps(node: ast.AST, at: Positions, text: str) -> Iterator[tuple[Kind, Span]]:
    if isinstance(node, ast.Call):
        end = at.end(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        yield Kind.CALL, (at.end(node.func) - len(name) if name else at.begin(node), end)
        arguments: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
        for argument in arguments:
            yield Kind.ARGUMENT, at.span(argument, argument)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield Kind.RETURN, at.span(node.value, node.value)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
        keyword := _KEYWORD.match(text, at.begin(node))
    ):
        end = text.find("\n", keyword.end())
        yield Kind.DEFINITION, (keyword.end(), len(text) if end < 0 else end)
    if not isinstance(node, ast.Module):
        match getattr(node, "body", None):
            case [ast.stmt() as first, *_] as body:
                yield Kind.BLOCK, at.span(first, body[-1])


class Miner:
    """Tells which gaps a model cannot fill yet.

    Args:
        backend: the model, asked as the server asks it in rest, without other files' text.
    """

    def __init__(self, backend: Backend) -> None:
        self._engine = CompletionEngine(backend)
        self._asked = 0
        self._policies = Policies(
            trigger=TriggerPolicy(enabled=False),
            window=WindowPolicy().rested(),
            decode=DecodePolicy(max_tokens=64, deadline_ms=None),
            confidence=ConfidencePolicy(None),
        )

    def fails(self, text: str, gap: Span) -> bool:
        """Whether the model's suggestion leaves another line than the file has.

        Raises:
            ModelError: the model cannot be asked.
        """
        begin, end = gap
        without = text[:begin] + text[end:]
        # A document of its own each time: no gap may profit from the text of another.
        self._asked += 1
        uri = f"gap:///{self._asked}.py"
        outcome = self._engine.complete(
            CompletionRequest(without, begin, uri=uri, policies=self._policies)
        )
        self._engine.forget(uri)
        if not isinstance(outcome, Suggestion):
            return True
        written = without[: outcome.start] + outcome.insert + without[outcome.end :]
        return written[begin:].partition("\n")[0] != text[begin:].partition("\n")[0]
