"""`GET /metrics`: counts of the engine and the server, as Prometheus reads them.

Enters: a server. Leaves: a page of text. Nothing is counted twice: what the engine counts is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from pumice.engine import EngineCounters, Histogram
from pumice.serve.bundles import Bundles
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
        bundles = self._server.bundles
        counts = [(tenant.name, tenant.counters) for tenant in bundles.tenants]
        there = {name: counters for name, counters in counts if counters is not None}
        if there:
            yield from _of_engines(there, ["model"] if bundles.several else [])
        if bundles.several:
            yield from _of_models(bundles)


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


def _of_models(bundles: Bundles) -> Iterator[Metric]:
    loads = CounterMetricFamily("pumice_model_loads", "Times that a model was loaded.", labels=["model"])
    loaded = GaugeMetricFamily("pumice_model_loaded", "Whether a model is loaded.", labels=["model"])
    waiting = GaugeMetricFamily(
        "pumice_model_waiting", "Requests that wait for a model to be loaded.", labels=["model"]
    )
    memory = GaugeMetricFamily(
        "pumice_model_memory_bytes", "What a loaded model may take, by its plan.", labels=["model"]
    )
    for tenant in bundles.tenants:
        name = [tenant.name]
        loads.add_metric(name, tenant.loads)
        loaded.add_metric(name, tenant.loaded is not None)
        waiting.add_metric(name, len(tenant.residence.waiting))
        memory.add_metric(name, 0 if tenant.loaded is None else tenant.loaded.nbytes)
    yield from (loads, loaded, waiting, memory)
    if bundles.budget is not None:
        yield GaugeMetricFamily(
            "pumice_memory_budget_bytes", "What all models together may take.", bundles.budget
        )


_GAUGES = {
    "queue_depth": ("queued", "Requests without slots."),
    "requests_running": ("running", "Requests in slots."),
    "slots": ("slots", "Sequences that are decoded together, at most."),
    "slots_in_use": ("slots_in_use", "Slots in use."),
}
_HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request to its first token.",
    "time_between_tokens_seconds": "Between a request's tokens.",
}


def _of_engines(counts: Mapping[str, EngineCounters], labels: Sequence[str]) -> Iterator[Metric]:
    """Those of every model; labelled with their names, or not at all where there is one."""
    requests = CounterMetricFamily("pumice_requests", "Requests by outcome.", labels=[*labels, "outcome"])
    prompts = CounterMetricFamily("pumice_prompt_tokens", "Tokens of prompts.", labels=[*labels, "cached"])
    generated = CounterMetricFamily("pumice_generated_tokens", "Tokens of answers.", labels=labels)
    gauges = {
        field: GaugeMetricFamily(f"pumice_{name}", help, labels=labels)
        for name, (field, help) in _GAUGES.items()
    }
    histograms = {
        name: HistogramMetricFamily(f"pumice_{name}", help, labels=labels)
        for name, help in _HISTOGRAMS.items()
    }
    for name, counters in counts.items():
        values = [name] if labels else []
        for outcome in ("finished", "cancelled", "failed", "expired"):
            requests.add_metric([*values, outcome], getattr(counters, outcome))
        prompts.add_metric([*values, "true"], counters.reused_prompt_tokens)
        prompts.add_metric([*values, "false"], counters.prompt_tokens - counters.reused_prompt_tokens)
        generated.add_metric(values, counters.generated_tokens)
        for field, gauge in gauges.items():
            gauge.add_metric(values, getattr(counters, field))
        for field, family in histograms.items():
            histogram: Histogram = getattr(counters, field)
            family.add_metric(values, buckets=_buckets(histogram), sum_value=histogram.sum)
    yield from (requests, *gauges.values(), prompts, generated, *histograms.values())


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
