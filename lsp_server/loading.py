"""Makes the engine. Imports the inference runtime only when called: `initialize` is answered
long before that is done."""

from __future__ import annotations

from lsp_server.session import Loaded


def load_engine(model: str | None, threads: int) -> Loaded:
    """Find, verify, load and warm up the model; blocks for about a second.

    Args:
        model: name or folder of weights; None for the packaged ones.
        threads: threads of one decode.

    Raises:
        WeightsError: the weights are missing, altered or not understood.
    """
    from completion.engine import CompletionEngine
    from models.local import LocalBackend
    from models.registry import find

    backend = LocalBackend.load(find(model), threads=threads)
    backend.warm_up()
    return Loaded(CompletionEngine(backend), lambda: backend.kv_bytes)
