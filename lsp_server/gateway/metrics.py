"""What `/metrics` tells Prometheus; no source text, no names of clients."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 30.0)


class Metrics:
    """Counters of one gateway, in a registry of its own."""

    def __init__(self, waiting: Callable[[], float], kv_bytes: Callable[[], float]) -> None:
        """Both are asked whenever somebody reads the metrics."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "snowcoder_gateway_requests",
            "Requests answered, by path and status.",
            ("path", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "snowcoder_gateway_request_seconds",
            "From the request's arrival to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.engine_seconds = Histogram(
            "snowcoder_gateway_engine_seconds",
            "The engine's part of it.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.prompt_tokens = Counter(
            "snowcoder_gateway_prompt_tokens",
            "Prompt tokens, by whether they were read anew or found in the KV cache.",
            ("source",),
            registry=self._registry,
        )
        self.generated_tokens = Counter(
            "snowcoder_gateway_generated_tokens", "Tokens generated.", registry=self._registry
        )
        self.cancelled = Counter(
            "snowcoder_gateway_cancelled",
            "Requests given up, by why: superseded or disconnected.",
            ("why",),
            registry=self._registry,
        )
        gauge = Gauge(
            "snowcoder_gateway_waiting", "Requests waiting for the engine.", registry=self._registry
        )
        gauge.set_function(waiting)
        gauge = Gauge(
            "snowcoder_gateway_kv_bytes", "Bytes of all KV caches.", registry=self._registry
        )
        gauge.set_function(kv_bytes)

    def text(self) -> bytes:
        """The exposition in Prometheus's text format."""
        return generate_latest(self._registry)
