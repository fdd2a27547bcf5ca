"""Prometheus metrics with bounded labels: routes by the name of their operation, never by a client's path.

Where several workers answer, the metrics are those of all of them, whichever is asked: prometheus_client adds up the
counters, which it keeps in the workers' shared folder; the rest each worker tells the others once a second.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from serving.scheduling.engine import Engine
from serving.scheduling.memory import MemoryBudget
from serving.scheduling.statistics import BINS, Statistics
from serving.workers.peers import Peers

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's environment variable


class Metrics:
    """The counters of one server process, and what it tells of itself.

    Attributes:
        engines: the models that answer.
    """

    def __init__(self, budget: MemoryBudget, peers: Peers | None = None) -> None:
        """Count nothing yet.

        Args:
            budget: whose reserved bytes are told.
            peers: the other workers of the server, if there are any.
        """
        self.budget, self.peers = budget, peers
        # BentoML puts prometheus_client into its mode of many processes, whose folder must be there first; a process
        # that is alone reads its own values all the same.
        if peers is not None:
            os.environ[FOLDER] = str(peers.counters)
        if folder := os.environ.get(FOLDER):
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
        self.engines: Iterable[Engine] = ()
        self.exposed = self.registry
        if peers is not None:
            self.exposed = CollectorRegistry()
            MultiProcessCollector(self.exposed, str(peers.counters))  # type: ignore[no-untyped-call]
            self.exposed.register(_Processes(peers))
        elif sys.platform == "linux":
            ProcessCollector(registry=self.registry)
        self.exposed.register(_Models(self))

    def on_batch(self, images: int, queued: list[float], ran: float) -> None:
        """Count one run."""
        self.batch.observe(images)
        self.ran.observe(ran)
        for seconds in queued:
            self.queued.observe(seconds)

    def on_models(self, engines: Iterable[Engine]) -> None:
        """Remember the models that answer."""
        self.engines = engines

    def status(self) -> dict[str, Any]:
        """Return what this process tells the others of itself."""
        models = [
            {
                "identity": [engine.name, engine.version, engine.predictor.digest, engine.predictor.provider],
                "classes": list(engine.card.classes),
                "statistics": engine.statistics.as_json(),
            }
            for engine in self.engines
        ]
        waiting = sum(engine.waiting for engine in self.engines)
        return {"waiting": waiting, "reserved": self.budget.reserved, "models": models}

    def statuses(self) -> list[dict[str, Any]]:
        """Return the status of this process; of several what each last told, so that all answer the same."""
        if self.peers is None:
            return [self.status()]
        return [told["status"] for told in self.peers.everyone() if "status" in told]

    def statistics(self, engine: Engine) -> Statistics:
        """Return what all workers counted of a model."""
        identity = engine.name, engine.version, engine.predictor.digest
        models = [model for status in self.statuses() for model in status["models"]]
        found = [model["statistics"] for model in models if tuple(model["identity"][:3]) == identity]
        return Statistics.total(found, len(engine.card.classes))

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.exposed)


class _Models:
    """The queues, the models and what they answer, read when asked for: a drift of the data shows here."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, the models, and their counts by class and by confidence."""
        statuses = self._metrics.statuses()
        for name, words in (
            ("waiting_images", "Images waiting for a run."),
            (
                "reserved_bytes",
                "Reserved of the memory budget: bodies beyond their first 64 KiB, and what decoding takes.",
            ),
        ):
            value = sum(status[name.partition("_")[0]] for status in statuses)
            yield GaugeMetricFamily(f"xtrain_{name}", words, value=value)
        identity = ["name", "version", "digest", "provider"]
        loaded = GaugeMetricFamily("xtrain_model", "Workers that answer by the model.", labels=identity)
        names = ["model", "version"]
        classes = CounterMetricFamily(
            "xtrain_predictions", "Images by their most probable class.", labels=[*names, "class"]
        )
        confidence = HistogramMetricFamily(
            "xtrain_confidence", "Probability of an image's most probable class.", labels=names
        )
        models = sorted((model for status in statuses for model in status["models"]), key=lambda one: one["identity"])
        for told, group in groupby(models, key=lambda one: one["identity"]):
            same = list(group)
            loaded.add_metric(told, len(same))
        for model, group in groupby(models, key=lambda one: one["identity"][:2]):
            # Other digests, for the moment of a swap, may have other classes.
            first, *rest = group
            same = [first, *(one for one in rest if one["classes"] == first["classes"])]
            counted = Statistics.total((one["statistics"] for one in same), len(first["classes"]))
            for label, count in zip(first["classes"], counted.classes.tolist(), strict=True):
                classes.add_metric([*model, label], count)
            above = np.cumsum(counted.confidences).tolist()
            bounds = [f"{(number + 1) / BINS:g}" for number in range(BINS - 1)] + ["+Inf"]
            confidence.add_metric(model, list(zip(bounds, above, strict=True)), counted.confidence_sum)
        yield loaded
        yield classes
        yield confidence


class _Processes:
    """Memory, computing time and open files of each worker."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def collect(self) -> Iterator[Metric]:
        """Yield the three, under the names of `ProcessCollector`."""
        resident = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory of a worker.", labels=["worker"])
        computed = CounterMetricFamily("process_cpu_seconds", "Seconds that a worker computed.", labels=["worker"])
        files = GaugeMetricFamily("process_open_fds", "Open files of a worker.", labels=["worker"])
        pids = {self._peers.index: os.getpid(), **{told["worker"]: told["pid"] for told in self._peers.others()}}
        for worker, pid in sorted(pids.items()):
            try:
                process = psutil.Process(pid)
                times, memory, opened = process.cpu_times(), process.memory_info().rss, process.num_fds()
            except psutil.Error:  # it has just ended
                continue
            resident.add_metric([str(worker)], memory)
            computed.add_metric([str(worker)], times.user + times.system)
            files.add_metric([str(worker)], opened)
        yield resident
        yield computed
        yield files
