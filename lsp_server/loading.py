"""Makes the engine. Imports the inference runtime only when called: `initialize` is answered
long before that is done."""

from __future__ import annotations

from completion.context.types import Find
from lsp_server.session import Loaded


def load_engine(model: str | None, threads: int, find_index: Find | None = None) -> Loaded:
    """Find, verify, load and warm up the model; blocks for about a second.

    Args:
        model: name or folder of weights; None for the packaged ones.
        threads: threads of one decode.
        find_index: the index of a document's workspace, called in the engine's thread; by default
            there is none, and context comes from the documents the user was in.

    Raises:
        WeightsError: the weights are missing, altered or not understood.
    """
    from completion.context.memory import open_documents
    from completion.context.provider import ContextProvider
    from completion.engine import CompletionEngine
    from models.local import LocalBackend
    from models.registry import find

    backend = LocalBackend.load(find(model), threads=threads)
    backend.warm_up()
    context = ContextProvider(find_index or open_documents(), backend.tokenizer)
    return Loaded(CompletionEngine(backend, context), lambda: backend.kv_bytes)
