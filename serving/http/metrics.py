"""Prometheus metrics with bounded labels: routes by the name of their operation, never by a client's path."""

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.scheduling.engine import Engine

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
        self.model = Gauge(
            "xtrain_model", "1 for each model that answers.", ["name", "version", "digest"], registry=self.registry
        )

    def on_batch(self, images: int, queued: list[float], ran: float) -> None:
        """Count one run."""
        self.batch.observe(images)
        self.ran.observe(ran)
        for seconds in queued:
            self.queued.observe(seconds)

    def on_models(self, engines: Iterable[Engine]) -> None:
        """Set the models that answer now."""
        self.model.clear()
        for engine in engines:
            self.model.labels(engine.name, engine.version, engine.predictor.digest).set(1)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
