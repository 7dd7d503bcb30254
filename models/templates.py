"""How models are asked to fill in the middle: the text around the cursor as one prompt.

Servers of the OpenAI protocol differ in what they make of `suffix` (vLLM refuses it, llama.cpp
ignores it), so the special tokens of known models are written into the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """One model family's layout.

    Attributes:
        text: with `{prefix}` and `{suffix}`; None sends them as `prompt` and `suffix`.
        stop: special tokens that end the text or must not appear in it.
    """

    text: str | None
    stop: tuple[str, ...] = ()

    def prompt(self, prefix: str, suffix: str) -> str:
        """The prompt for a cursor between `prefix` and `suffix`."""
        if self.text is None:
            return prefix
        # Not str.format: code is full of braces.
        before, _, rest = self.text.partition("{prefix}")
        if "{suffix}" in before:
            first, _, between = before.partition("{suffix}")
            return first + suffix + between + prefix + rest
        between, _, last = rest.partition("{suffix}")
        return before + prefix + between + suffix + last


TEMPLATES = {
    "openai": Template(None),
    "snowcoder": Template(
        "<|eot|><|suffix|>{suffix}<|prefix|>{prefix}", ("<|eom|>", "<|eot|>", "<|file|>")
    ),
    "starcoder": Template(
        "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
        ("<|endoftext|>", "<file_sep>", "<fim_prefix>", "<fim_pad>"),
    ),
    "qwen": Template(
        "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|im_end|>"),
    ),
    "deepseek": Template(
        "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        ("<｜end▁of▁sentence｜>", "<｜fim▁begin｜>"),
    ),
    "codellama": Template("<PRE> {prefix} <SUF>{suffix} <MID>", ("<EOT>", "</s>")),
    "codestral": Template("[SUFFIX]{suffix}[PREFIX]{prefix}", ("</s>", "[SUFFIX]", "[PREFIX]")),
}
"""By family; `granite` uses StarCoder's tokens."""

_FAMILIES = {
    "snowcoder": "snowcoder",
    "starcoder": "starcoder",
    "granite": "starcoder",
    "qwen": "qwen",
    "deepseek": "deepseek",
    "codellama": "codellama",
    "code-llama": "codellama",
    "codestral": "codestral",
}


def template_for(model: str) -> str:
    """Name of the template that fits a model's name; `openai` where it says nothing."""
    # Arctic-SnowCoder is another model than ours.
    name = model.lower().replace("arctic-snowcoder", "")
    return next((family for part, family in _FAMILIES.items() if part in name), "openai")
