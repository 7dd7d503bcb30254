"""Everything that `models` raises on purpose."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error that `models` raises on purpose.

    ModelError
    ├── WeightsError       weights missing, altered (SHA-256) or not understood
    ├── TokenizerError     tokenizer.json missing or not the one the weights need
    ├── PromptError        a prompt the model cannot take (empty, longer than its context)
    ├── CacheError         no memory for a KV cache
    ├── RunError           the runtime failed in a run, for want of memory for instance
    └── RemoteError        a remote engine gave no usable answer
        ├── RemoteUnreachableError   no connection, or none is tried for a while
        ├── RemoteTimeoutError       no complete answer in time
        ├── RemoteStatusError        an HTTP status other than 200
        └── RemoteProtocolError      an answer that is not what was asked for
    """


class WeightsError(ModelError):
    """The weight files are missing, altered or do not describe a model we can run."""


class TokenizerError(ModelError):
    """The tokenizer file is missing or does not fit the weights."""


class PromptError(ModelError):
    """The prompt is empty or does not fit the model's context length."""


class CacheError(ModelError):
    """There is no memory for a KV cache."""


class RunError(ModelError):
    """The runtime failed in a run; the KV cache is as it was."""


class RemoteError(ModelError):
    """A remote engine gave no usable answer."""


class RemoteUnreachableError(RemoteError):
    """There is no connection to the remote engine, or after failures none is tried for a while."""


class RemoteTimeoutError(RemoteError):
    """The remote engine did not answer in time."""


class RemoteStatusError(RemoteError):
    """The remote engine answered with an HTTP status other than 200."""


class RemoteProtocolError(RemoteError):
    """The remote engine's answer is not JSON, ends too early, or is of another model."""
