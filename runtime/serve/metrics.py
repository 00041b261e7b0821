"""`GET /metrics`: counts of the engine and the server, as Prometheus reads them.

Enters: a server. Leaves: a page of text. Nothing is counted twice: what the engine counts is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from pumice.engine import EngineCounters, Histogram
from pumice.serve.server import Server


def exposition(server: Server) -> tuple[bytes, str]:
    """The page, and its media type."""
    registry = CollectorRegistry()
    registry.register(_Counts(server))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Counts(Collector):
    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield from _of_server(self._server)
        for loaded in self._server.bundles.loaded:
            yield from _of_engine(loaded.engine.counters)


def _of_server(server: Server) -> Iterator[Metric]:
    tally = server.tally
    requests = CounterMetricFamily(
        "pumice_http_requests", "Requests by route and status.", labels=["route", "code"]
    )
    for (route, status), count in sorted(tally.requests.items()):
        requests.add_metric([route, str(status)], count)
    yield requests
    answers = CounterMetricFamily("pumice_answers", "Answers by why they ended.", labels=["finish_reason"])
    for reason, count in sorted(tally.finished.items()):
        answers.add_metric([reason], count)
    yield answers
    yield GaugeMetricFamily("pumice_http_in_flight", "Requests under way.", tally.in_flight)
    yield GaugeMetricFamily(
        "pumice_ready", "Whether requests are answered.", server.bundles.not_ready is None
    )
    yield CounterMetricFamily(
        "pumice_refused", "Requests that found the queue full.", server.admission.refused
    )
    yield CounterMetricFamily("pumice_image_tokens", "Tokens of images in prompts.", tally.image_tokens)
    yield CounterMetricFamily("pumice_image_seconds", "Seconds of encoding images.", tally.image_s)


def _of_engine(counters: EngineCounters) -> Iterator[Metric]:
    requests = CounterMetricFamily("pumice_requests", "Requests by outcome.", labels=["outcome"])
    for outcome in ("finished", "cancelled", "failed", "expired"):
        requests.add_metric([outcome], getattr(counters, outcome))
    yield requests
    yield GaugeMetricFamily("pumice_queue_depth", "Requests without slots.", counters.queued)
    yield GaugeMetricFamily("pumice_requests_running", "Requests in slots.", counters.running)
    yield GaugeMetricFamily("pumice_slots", "Sequences that are decoded together, at most.", counters.slots)
    yield GaugeMetricFamily("pumice_slots_in_use", "Slots in use.", counters.slots_in_use)
    prompts = CounterMetricFamily("pumice_prompt_tokens", "Tokens of prompts.", labels=["cached"])
    prompts.add_metric(["true"], counters.reused_prompt_tokens)
    prompts.add_metric(["false"], counters.prompt_tokens - counters.reused_prompt_tokens)
    yield prompts
    yield CounterMetricFamily("pumice_generated_tokens", "Tokens of answers.", counters.generated_tokens)
    yield _histogram(
        "pumice_time_to_first_token_seconds",
        "From a request to its first token.",
        counters.time_to_first_token_seconds,
    )
    yield _histogram(
        "pumice_time_between_tokens_seconds",
        "Between a request's tokens.",
        counters.time_between_tokens_seconds,
    )


def _histogram(name: str, help: str, histogram: Histogram) -> HistogramMetricFamily:
    total, buckets = 0, []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return HistogramMetricFamily(name, help, buckets=buckets, sum_value=histogram.sum)
