"""What `/metrics` reports, in a registry of the server's own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vlm_serve.engine.request import Event, Failed, Finished, Piece, Started

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_BETWEEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class EngineCollector(Collector):
    """The engine's own counters and gauges, read when they are asked for; names that end in `_total` are counters."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        for key, value in sorted(self._stats().items()):
            name = "vlm_serve_engine_" + re.sub(r"\W", "_", key)
            text = f"{key.replace('_', ' ')} of the engine"
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, text, value=float(value))


class Metrics:
    """Counters and histograms of requests and answers."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=False)
        registry.register(EngineCollector(stats))
        self.requests = Counter(
            "vlm_serve_requests", "Requests by route and status.", ("route", "status"), registry=registry
        )
        self.answers = Counter(
            "vlm_serve_answers", "Answers by how they ended.", ("reason",), registry=registry
        )
        self.prompt_tokens = Counter(
            "vlm_serve_prompt_tokens", "Positions of prompts.", ("source",), registry=registry
        )
        self.tokens = Counter("vlm_serve_generated_tokens", "Generated tokens.", registry=registry)
        self.first = Histogram(
            "vlm_serve_time_to_first_token_seconds",
            "From an answer's request to its first token, waiting included.",
            buckets=_FIRST,
            registry=registry,
        )
        self.between = Histogram(
            "vlm_serve_inter_token_seconds",
            "Between tokens of an answer.",
            buckets=_BETWEEN,
            registry=registry,
        )


class AnswerTimes:
    """Measures one answer by its events, from the time when it is made."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._last, self._began, self._ended = metrics, time.perf_counter(), False, False

    def observe(self, event: Event) -> None:
        metrics = self._metrics
        if isinstance(event, Started):
            metrics.prompt_tokens.labels("cache").inc(event.cached_tokens)
            metrics.prompt_tokens.labels("read").inc(event.prompt_tokens - event.cached_tokens)
        elif isinstance(event, Piece) and event.tokens:
            now = time.perf_counter()
            seconds, self._last = now - self._last, now
            metrics.tokens.inc(event.tokens)
            (metrics.between if self._began else metrics.first).observe(seconds)
            self._began = True
        elif isinstance(event, Finished):
            self._end(event.reason)
        elif isinstance(event, Failed):
            self._end(event.kind)

    def close(self) -> None:
        """Count an answer that has not ended by itself."""
        if not self._ended:
            self._end("cancelled")

    def _end(self, reason: str) -> None:
        self._ended = True
        self._metrics.answers.labels(reason).inc()
