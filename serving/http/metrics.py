"""Prometheus metrics with bounded labels: routes by the name of their operation, never by a client's path."""

import os
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from serving.scheduling.engine import Engine
from serving.scheduling.statistics import BINS

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one server process."""

    def __init__(self) -> None:
        # BentoML puts prometheus_client into its mode of many processes, whose folder must be there first; the
        # metrics are this process's all the same.
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            os.makedirs(folder, exist_ok=True)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xtrain_requests", "Requests by route and status.", ["route", "code"], registry=self.registry
        )
        self.rejected = Counter("xtrain_rejected", "Refusals by reason.", ["reason"], registry=self.registry)
        self.seconds = Histogram(
            "xtrain_request_seconds",
            "Seconds from the first byte to the last.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queued = Histogram(
            "xtrain_queue_seconds", "Seconds a request waited for a run.", buckets=SECONDS, registry=self.registry
        )
        self.decoded = Histogram(
            "xtrain_decode_seconds", "Seconds of decoding an image.", buckets=SECONDS, registry=self.registry
        )
        self.ran = Histogram(
            "xtrain_run_seconds", "Seconds of one run of the model.", buckets=SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "xtrain_batch_images",
            "Images of one run.",
            buckets=[2**power for power in range(11)],
            registry=self.registry,
        )
        self.waiting = Gauge("xtrain_waiting_images", "Images waiting for a run.", registry=self.registry)
        self.reserved = Gauge(
            "xtrain_reserved_bytes",
            "Reserved of the memory budget: bodies under way beyond their first 64 KiB, unpacked arrays included.",
            registry=self.registry,
        )
        if sys.platform == "linux":
            ProcessCollector(registry=self.registry)
        self.engines: Iterable[Engine] = ()
        self.registry.register(_Models(self))

    def on_batch(self, images: int, queued: list[float], ran: float) -> None:
        """Count one run."""
        self.batch.observe(images)
        self.ran.observe(ran)
        for seconds in queued:
            self.queued.observe(seconds)

    def on_models(self, engines: Iterable[Engine]) -> None:
        """Remember the models that answer."""
        self.engines = engines

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Models:
    """The models and what they answer, read from their statistics when asked for: a drift of the data shows here."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the models, and their counts by class and by confidence."""
        identity = ["name", "version", "digest", "provider"]
        loaded = GaugeMetricFamily("xtrain_model", "1 for each model that answers.", labels=identity)
        names = ["model", "version"]
        classes = CounterMetricFamily(
            "xtrain_predictions", "Images by their most probable class.", labels=[*names, "class"]
        )
        confidence = HistogramMetricFamily(
            "xtrain_confidence", "Probability of an image's most probable class.", labels=names
        )
        for engine in self._metrics.engines:
            loaded.add_metric([engine.name, engine.version, engine.predictor.digest, engine.predictor.provider], 1)
            model, counted = [engine.name, engine.version], engine.statistics
            for label, count in zip(engine.card.classes, counted.classes.tolist(), strict=True):
                classes.add_metric([*model, label], count)
            above = np.cumsum(counted.confidences).tolist()
            bounds = [f"{(number + 1) / BINS:g}" for number in range(BINS - 1)] + ["+Inf"]
            confidence.add_metric(model, list(zip(bounds, above, strict=True)), counted.confidence_sum)
        yield loaded
        yield classes
        yield confidence
