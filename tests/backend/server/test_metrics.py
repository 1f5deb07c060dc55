"""What a monitor reads: backend/server/metrics.py."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from backend.server.metrics import Metrics


def test_a_monitor_can_read_it() -> None:
    metrics = Metrics()
    metrics.tokens.inc(3)
    metrics.requests.labels("chat", "200").inc()
    metrics.first_token.observe(0.2)

    found = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}

    assert found["tunesmith_generated_tokens"].samples[0].value == 3
    assert found["tunesmith_requests"].samples[0].labels == {"endpoint": "chat", "status": "200"}
    assert {"tunesmith_rows", "tunesmith_waiting", "tunesmith_first_token_seconds"} <= set(found)


def test_two_servers_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.tokens.inc()

    assert b"tunesmith_generated_tokens_total 0.0" in second.text()
