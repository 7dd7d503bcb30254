"""Everything that `models` raises on purpose."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error that `models` raises on purpose.

    ModelError
    ├── WeightsError       weights missing, altered (SHA-256) or not understood
    ├── TokenizerError     tokenizer.json missing or not the one the weights need
    ├── PromptError        a prompt the model cannot take (empty, longer than its context)
    └── CacheError         no memory for a KV cache
    """


class WeightsError(ModelError):
    """The weight files are missing, altered or do not describe a model we can run."""


class TokenizerError(ModelError):
    """The tokenizer file is missing or does not fit the weights."""


class PromptError(ModelError):
    """The prompt is empty or does not fit the model's context length."""


class CacheError(ModelError):
    """There is no memory for a KV cache."""
