"""How a model wants its prompt: which special tokens stand around the prefix and the suffix.

The description travels in the manifest. A layout is a list of special tokens and slots:

- `{suffix}`: the text after the cursor;
- `{prefix}`: the text before it; or, in its place, `{lines}` and `{line}`: the whole lines before
  the cursor's, and the cursor's line up to the cursor.

`joint` layouts end with text that the model simply continues, the last token healed: typing only
appends, so the KV cache stays valid. `sep` layouts end with a marker.

The tokens have roles (`eot`, `prefix`, `suffix`, `middle`…), named in `roles` where they are not
those of our own vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from models.errors import TokenizerError

_PROMPT = ["<|eot|>", "<|suffix|>", "{suffix}", "<|prefix|>", "{prefix}"]
OWN_TEMPLATE: dict[str, Any] = {
    "joint": {"layout": _PROMPT, "heal_last_token": True, "stop": ["<|eom|>", "<|eot|>"]},
    "sep": {
        "layout": [*_PROMPT, "<|middle|>"],
        "heal_last_token": False,
        "heal_blank_line": True,
        "stop": ["<|eom|>", "<|eot|>"],
    },
}
"""The template of the models that `models.training` trains."""


class Slot(StrEnum):
    """A place in a layout that text is put into."""

    PREFIX = "{prefix}"
    SUFFIX = "{suffix}"
    LINES = "{lines}"
    LINE = "{line}"


_SLOTS = {slot.value: slot for slot in Slot}


@dataclass(frozen=True, slots=True)
class Layout:
    """Special token ids and slots, in order.

    `heal`: the last word of the text is healed. `heal_blank_line`: a line of nothing but blanks is,
    with the line break before it; for models whose tokens hold both and that saw them in one.
    """

    parts: tuple[int | Slot, ...]
    heal: bool
    heal_blank_line: bool = False

    @property
    def has_suffix(self) -> bool:
        """Whether the model is shown the text after the cursor."""
        return Slot.SUFFIX in self.parts

    @property
    def splits_line(self) -> bool:
        """Whether the cursor's line stands apart from the lines before it."""
        return Slot.LINE in self.parts

    @property
    def markers(self) -> int:
        """How many special tokens it has."""
        return sum(not isinstance(part, Slot) for part in self.parts)

    def lay_out(
        self,
        suffix: Sequence[int],
        prefix: Sequence[int],
        line: int = 0,
        context: Sequence[int] = (),
    ) -> list[int]:
        """The prompt; the last `line` tokens of `prefix` are the cursor's line.

        `context` (code of other files) stands behind the token that begins every text.
        """
        cut = len(prefix) - line
        text = {
            Slot.PREFIX: prefix,
            Slot.SUFFIX: suffix,
            Slot.LINES: prefix[:cut],
            Slot.LINE: prefix[cut:],
        }
        ids: list[int] = []
        for part in self.parts:
            if isinstance(part, Slot):
                ids += text[part]
            else:
                ids.append(part)
        return [*ids[:1], *context, *ids[1:]]


@dataclass(frozen=True, slots=True)
class Template:
    """The layouts of a model's two modes, see `completion.types.Mode`."""

    joint: Layout
    sep: Layout

    @classmethod
    def parse(cls, description: Mapping[str, Any], ids: Mapping[str, int]) -> Template:
        """Read the template of a manifest; `ids` are the special tokens of the vocabulary.

        Raises:
            TokenizerError: it is malformed or names tokens that the vocabulary lacks.
        """
        try:
            return cls(_layout(description["joint"], ids), _layout(description["sep"], ids))
        except (KeyError, TypeError) as error:
            raise TokenizerError(f"the prompt template is malformed: {error!r}") from error


def _layout(description: Mapping[str, Any], ids: Mapping[str, int]) -> Layout:
    parts: list[int | Slot] = []
    for part in description["layout"]:
        if part in _SLOTS:
            parts.append(_SLOTS[part])
        elif part in ids:
            parts.append(ids[part])
        else:
            raise TokenizerError(f"the prompt template needs the token {part}, which is unknown")
    if Slot.PREFIX not in parts and Slot.LINE not in parts:
        raise TokenizerError("the prompt template has no place for the text before the cursor")
    return Layout(
        tuple(parts),
        bool(description["heal_last_token"]),
        bool(description.get("heal_blank_line", False)),
    )
