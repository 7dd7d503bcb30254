"""Makes the engines of a gateway. Imports the inference runtime only when called."""

from __future__ import annotations

from lsp_server.gateway.extra import SentFiles
from lsp_server.gateway.runner import Engines
from lsp_server.paths import cache_dir


def load_engines(model: str | None, threads: int, kv_limit: int) -> Engines:
    """Find, verify, load and warm up the model; blocks for about a second.

    Args:
        model: name or folder of weights; None for the packaged ones.
        threads: threads of one decode.
        kv_limit: bytes of all clients' KV caches together.

    Raises:
        WeightsError: the weights are missing, altered or not understood.
    """
    from completion.context.provider import ContextProvider
    from completion.continuation import Continuer
    from completion.engine import CompletionEngine
    from models.local import LocalBackend
    from models.registry import find

    backend = LocalBackend.load(
        find(model), threads=threads, kv_limit=kv_limit, packed_cache=cache_dir() / "weights"
    )
    backend.warm_up()
    sent, context = SentFiles(), None
    if backend.tokenizer.names_files:
        context = ContextProvider(sent.find, backend.tokenizer)
    return Engines(
        suggest=CompletionEngine(backend, context),
        sent=sent,
        continuer=Continuer(backend),
        model_id=backend.model_id,
        language=min(backend.languages, default="python"),
        context_length=backend.context_length,
        kv_bytes=lambda: backend.kv_bytes,
    )
