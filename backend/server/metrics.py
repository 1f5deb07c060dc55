"""The metrics of the server, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of its own: a process may hold several, as tests do."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tunesmith_requests", "Requests answered.", ["endpoint", "status"], registry=registry
        )
        self.tokens = Counter("tunesmith_generated_tokens", "Tokens generated.", registry=registry)
        self.prompt_tokens = Counter("tunesmith_prompt_tokens", "Tokens of prompts read.", registry=registry)
        self.loads = Counter("tunesmith_model_loads", "Base models loaded.", registry=registry)
        self.rows = Gauge("tunesmith_rows", "Answers being written now.", registry=registry)
        self.waiting = Gauge("tunesmith_waiting", "Requests waiting for room.", registry=registry)
        self.first_token = Histogram(
            "tunesmith_first_token_seconds",
            "From request to first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "tunesmith_request_seconds", "From request to last token.", buckets=_SECONDS, registry=registry
        )

    def text(self) -> bytes:
        """Return all metrics as a monitor reads them."""
        return generate_latest(self.registry)
