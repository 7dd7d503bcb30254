"""Makes the engine. Imports the inference runtime only when called: `initialize` is answered
long before that is done."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import replace

from completion.context.types import Find
from lsp_server.paths import cache_dir
from lsp_server.session import Loaded
from lsp_server.settings import Settings

logger = logging.getLogger(__name__)

REMOTE_TOKEN_VARIABLE = "SNOWCODER_REMOTE_TOKEN"
"""Not a setting: settings are shared, synchronised and committed."""


def return_memory() -> None:
    """Give back what loading freed (8 MB of the parsed tokenizer): glibc keeps it otherwise."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


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
    from models.prepack import build_beside
    from models.registry import find

    weights, packed_cache = find(model), cache_dir() / "weights"
    backend = LocalBackend.load(weights, threads=threads, packed_cache=packed_cache)
    backend.warm_up()
    return_memory()
    if not backend.packed:
        build_beside(weights, packed_cache)
    context = None
    if backend.tokenizer.names_files:
        context = ContextProvider(find_index or open_documents(), backend.tokenizer)
    return Loaded(CompletionEngine(backend, context), lambda: backend.kv_bytes)


def with_remote(load: Callable[[], Loaded], settings: Settings) -> Loaded:
    """What `load` gives, behind the remote engine if the settings name one.

    Nothing is sent before the first suggestion is asked for. With a remote engine a local model
    that cannot be loaded is no failure.
    """
    if settings.engine == "local":
        return load()
    if settings.remote_url is None:
        return _without(load(), f"engine is {settings.engine}, but remoteUrl is not set")
    try:
        from completion.remote_engine import Order, RemoteEngine
        from models.remote import RemoteClient, RemoteConfig
    except ModuleNotFoundError as error:
        return _without(load(), f"{error}; a remote engine needs pip install 'snowcoder[gateway]'")
    local: Loaded | None = None
    try:
        local = load()
    except Exception as error:
        logger.warning("only the remote engine serves: %s", error)
    token = os.environ.get(REMOTE_TOKEN_VARIABLE) or None
    config = RemoteConfig(
        settings.remote_url, settings.remote_model, settings.remote_template, token
    )
    engine = RemoteEngine(
        RemoteClient(config), Order(settings.engine), None if local is None else local.engine
    )
    return Loaded(engine, local.kv_bytes if local else int, lambda: engine.trouble)


def _without(local: Loaded, trouble: str) -> Loaded:
    """The local engine alone, and why."""
    return replace(local, trouble=lambda: f"remote engine: {trouble}; the local model answers")
