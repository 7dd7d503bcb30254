"""Which prompt layout a foreign vocabulary was trained with.

Fill-in-the-middle tokens have names by which their family is known. Their order in the prompt is
the family's; `joint`, the layout for typing, is the one with the most stable KV cache among those
that the family was trained with:

- suffix first, prefix last (SPM), where half of the training was like that (SantaCoder, StarCoder,
  Granite, CodeLlama) or all of it (Codestral): typing only appends;
- else prefix, suffix, middle (PSM) with the cursor's line behind the last marker, as llama.vim
  does it: typing appends until the line ends.

`sep` is the plain layout of the family's documentation. Sources: arXiv 2207.14255 (PSM, SPM),
2301.03988 (SantaCoder), 2305.06161 (StarCoder), 2308.12950 (CodeLlama), 2405.04324 (Granite),
2409.12186 (Qwen2.5-Coder), 2401.14196 (DeepSeek-Coder).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import TokenizerError
from models.template import OWN_TEMPLATE

_ENDS = (
    "<|endoftext|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<|end_of_text|>",
    "<|im_end|>",
)


@dataclass(frozen=True, slots=True)
class _Family:
    """Texts of the tokens; `middle` is empty where the model just continues the prefix.

    `suffix_first` tells for which `model_type`s SPM was part of the training.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    suffix_first: frozenset[str] = frozenset()
    file: str = ""
    repo: str = ""
    eom: str = ""


_FAMILIES = (
    _Family(
        "qwen",
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        file="<|file_sep|>",
        repo="<|repo_name|>",
    ),
    _Family(
        "starcoder",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        # StarCoder2's report does not say that it was.
        suffix_first=frozenset({"gpt_bigcode", "llama", "granite"}),
        file="<file_sep>",
        repo="<repo_name>",
    ),
    _Family(
        "santacoder",
        "<fim-prefix>",
        "<fim-suffix>",
        "<fim-middle>",
        suffix_first=frozenset({"gpt_bigcode"}),
    ),
    _Family("deepseek", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Family(
        "codellama",
        "▁<PRE>",
        "▁<SUF>",
        "▁<MID>",
        suffix_first=frozenset({"llama"}),
        eom="▁<EOT>",
    ),
    _Family("codestral", "[PREFIX]", "[SUFFIX]", ""),
)


@dataclass(frozen=True, slots=True)
class Detected:
    """The template for the manifest, the family's name, and what the user should know."""

    template: dict[str, Any]
    family: str
    notices: tuple[str, ...] = ()


def detect(
    definition: Mapping[str, Any],
    model_type: str,
    *,
    vocab_size: int,
    begin: list[str],
    end: str | None,
    trained: Callable[[int], bool] = lambda token: True,
) -> Detected:
    """Find the prompt layout of a vocabulary.

    Args:
        definition: the parsed `tokenizer.json`.
        model_type: Hugging Face's name of the architecture.
        vocab_size: of the model.
        begin: texts of the tokens that the tokenizer puts before every text.
        end: text of the end-of-text token that the configuration names, if it does.
        trained: whether the embedding of a token is more than filling.

    Raises:
        TokenizerError: there is no token that ends a text.
    """
    ids = {token["content"]: int(token["id"]) for token in definition["added_tokens"]}
    if all(text in ids for text in ("<|eot|>", "<|prefix|>", "<|suffix|>", "<|middle|>")):
        return Detected(OWN_TEMPLATE, "snowcoder")
    ends = [text for text in (end, *_ENDS) if text in ids]
    if not ends:
        raise TokenizerError(
            "the vocabulary has no token that ends a text (such as <|endoftext|>): "
            "the model could not be told where to begin, nor be understood when it ends"
        )
    eot = str(ends[0])
    notices: list[str] = []
    for family in _FAMILIES:
        needed = [text for text in (family.prefix, family.suffix, family.middle) if text]
        if not all(text in ids for text in needed):
            continue
        numbers = [ids[text] for text in needed]
        if len({*numbers, ids[eot]}) <= len(numbers) or max(numbers) >= vocab_size:
            notices.append(f"the {family.name} markers' ids {numbers} do not fit the model")
        elif not all(map(trained, numbers)):
            notices.append(f"the {family.name} markers are in the vocabulary, but not trained")
        else:
            return Detected(_template(family, model_type, begin, eot, ids), family.name)
    notices.append(
        "no fill-in-the-middle tokens: the model continues the text before the cursor and is not "
        "shown what follows it"
    )
    start = begin or [eot]
    plain = {"layout": [*start, "{prefix}"], "stop": [eot]}
    template = {
        "joint": {**plain, "heal_last_token": True},
        "sep": {**plain, "heal_last_token": False},
        "roles": {"eot": eot},
    }
    return Detected(template, "none", tuple(notices))


def _template(
    family: _Family, model_type: str, begin: list[str], eot: str, ids: Mapping[str, int]
) -> dict[str, Any]:
    prefix, suffix, middle = family.prefix, family.suffix, family.middle
    if not middle:
        joint = sep = [*begin, suffix, "{suffix}", prefix, "{prefix}"]
    else:
        sep = [*begin, prefix, "{prefix}", suffix, "{suffix}", middle]
        if model_type in family.suffix_first:
            joint = [*begin, prefix, suffix, "{suffix}", middle, "{prefix}"]
        else:
            joint = [*begin, prefix, "{lines}", suffix, "{suffix}", middle, "{line}"]
    stop = [text for text in (family.eom, eot) if text in ids]
    roles = {"eot": eot, "prefix": prefix, "suffix": suffix, "middle": middle}
    roles |= {"eom": family.eom, "file": family.file, "repo": family.repo}
    return {
        "joint": {"layout": joint, "heal_last_token": True, "stop": stop},
        "sep": {"layout": sep, "heal_last_token": False, "stop": stop},
        "roles": {role: text for role, text in roles.items() if text in ids},
    }
