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


ENGINE_HELP = {
    "batch_rows": "Answers that are decoded in one group: 16, or 1 where company would change an answer.",
    "cache_bytes": "Bytes of cached states in memory.",
    "cache_damaged_total": "States in the cache folder that could not be read.",
    "cache_disk_bytes": "Bytes of the cache folder.",
    "cache_disk_hits_total": "States read from the cache folder.",
    "cache_disk_states": "States in the cache folder.",
    "cache_evicted_total": "States dropped from memory to make room.",
    "cache_hits_total": "States found in the cache.",
    "cache_misses_total": "States looked for that were not in the cache.",
    "cache_states": "Cached states in memory.",
    "cached_positions_total": "Positions of prompts that came from the cache.",
    "decode_graphs": "CUDA graphs that decode groups of answers; 0 where steps are launched call by call.",
    "decode_steps_total": "Calls of the model that decode, each for one or several answers.",
    "generated_tokens_total": "Generated tokens.",
    "model_folder_changed": "1 while the model folder has another content than is served.",
    "prefill_positions_total": "Positions of prompts that the model has read.",
    "queue_requests": "Requests that wait for a slot.",
    "requests_cancelled_total": "Requests whose client went away.",
    "requests_failed_total": "Requests that failed after they were prepared.",
    "requests_finished_total": "Requests with a whole answer.",
    "requests_total": "Requests that were prepared.",
    "slots": "Answers that can be generated at once.",
    "slots_in_use": "Answers that are read or generated now.",
    "state_bytes": "Bytes reserved for the states of the slots in use.",
    "worker_restarts_total": "Workers that were started again.",
    "workers": "Workers.",
    "workers_ready": "Workers that can answer.",
}
"""What the engine's counters and gauges are; those of an engine of another kind have their name alone."""


class EngineCollector(Collector):
    """The engine's own counters and gauges, read when they are asked for; names that end in `_total` are counters."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        for key, value in sorted(self._stats().items()):
            name = "vlm_serve_engine_" + re.sub(r"\W", "_", key)
            text = ENGINE_HELP.get(key, key.replace("_", " "))
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
