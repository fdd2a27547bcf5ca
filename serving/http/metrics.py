"""What operators see: Prometheus figures with bounded labels, and a JSON line a request.

Routes are labelled by the name of their endpoint, never by what a client put into a path.
"""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Telemetry:
    """The counters of one server process."""

    def __init__(self) -> None:
        # BentoML puts prometheus_client into its mode of many processes, whose folder must be there first; the
        # figures given out are this process's all the same.
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            os.makedirs(folder, exist_ok=True)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xtrain_requests", "Requests by route and status.", ["route", "code"], registry=self.registry
        )
        self.rejected = Counter("xtrain_rejected", "Refusals by reason.", ["reason"], registry=self.registry)
        self.seconds = Histogram(
            "xtrain_request_seconds", "From first byte to last.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.queued = Histogram("xtrain_queue_seconds", "Waiting for a run.", buckets=SECONDS, registry=self.registry)
        self.decoded = Histogram("xtrain_decode_seconds", "Decoding an image.", buckets=SECONDS, registry=self.registry)
        self.ran = Histogram("xtrain_run_seconds", "One run of the model.", buckets=SECONDS, registry=self.registry)
        self.batch = Histogram(
            "xtrain_batch_images",
            "Images of one run.",
            buckets=[2**power for power in range(11)],
            registry=self.registry,
        )
        self.waiting = Gauge("xtrain_waiting_images", "Images waiting for a run.", registry=self.registry)
        self.held = Gauge(
            "xtrain_held_bytes",
            "Of the bodies under way, each beyond its first 64 KiB, unpacked arrays included.",
            registry=self.registry,
        )
        self.model = Gauge(
            "xtrain_model", "1 for the model that answers.", ["name", "version", "digest"], registry=self.registry
        )

        self._model: tuple[str, str, str] | None = None

    def on_batch(self, images: int, queued: list[float], ran: float) -> None:
        """Take down one run."""
        self.batch.observe(images)
        self.ran.observe(ran)
        for seconds in queued:
            self.queued.observe(seconds)

    def on_model(self, name: str, version: str, digest: str) -> None:
        """Say which model answers now."""
        if self._model:
            self.model.labels(*self._model).set(0)
        self._model = (name, version, digest)
        self.model.labels(*self._model).set(1)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
