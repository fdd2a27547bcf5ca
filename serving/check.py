"""`xserve MODEL --check`: whether a model runs on this machine as it should, before anybody depends on it."""

import gc
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import psutil

from serving.model.devices import LABELS, PROVIDERS, choose, driver_version, missing_for, usable_cores
from serving.model.predictor import REFERENCE_TOLERANCE, Predictor
from serving.model.repository import Entry, ModelRepository
from serving.settings import Settings
from xtrain.errors import XtrainError

MEASURED_SECONDS = 1.0  # of each figure of images a second
SWAPS = 20
WARM_SWAPS = 3  # after which memory should not grow any more
GROWTH = 0.10  # share of the process's memory that the other swaps may add


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: was looked at.
        found: in words.
        fault: whether the server should not be used like this.
    """

    what: str
    found: str
    fault: bool = False


def check_all(settings: Settings) -> Iterator[Finding]:
    """Yield what is found, one after another.

    Args:
        settings: of the server that is meant to run.
    """
    for gpu, worker in {gpu: number for number, gpu in enumerate(settings.gpus, 1)}.items():
        if gpu is not None:
            yield Finding(f"GPU {gpu}", f"{settings.workers} of {settings.worker_count} workers")
        yield from check_worker(settings.of_worker(worker))


def check_worker(settings: Settings) -> Iterator[Finding]:
    """Yield what is found for one process of the server."""
    yield from check_machine(settings)
    repository = settings.open_repository()
    is_folder = settings.model.is_dir()
    entries = repository.entries() if is_folder else [repository.entry(str(settings.model))]
    if not entries:
        yield Finding("models", "the folder holds none", fault=True)
    for entry in entries:
        try:
            yield from check_model(settings, repository, entry)
        except XtrainError as error:
            yield Finding(f"{entry.name} {entry.version}", str(error), fault=True)


def check_machine(settings: Settings) -> Iterator[Finding]:
    """Yield the driver, the libraries of each provider, and what the device setting comes to."""
    yield Finding("cores", f"{usable_cores()} for this process")
    version = driver_version()
    yield Finding("CUDA driver", f"for CUDA up to {version}" if version else "none")
    for device in PROVIDERS:
        missing = missing_for(device)
        asked = settings.placement.device == device
        yield Finding(f"libraries of {LABELS[device]}", missing or "all load", fault=asked and bool(missing))
    try:
        choice = choose(settings.placement)
    except XtrainError as error:
        yield Finding(f"--device {settings.device}", str(error), fault=True)
        return
    # A driver without its libraries is a machine that was meant to compute on its GPU.
    fell_back = settings.device == "auto" and bool(version) and choice.label == "the CPU"
    yield Finding(f"--device {settings.device}", f"{choice.label}: {choice.reason}", fault=fell_back)


def check_model(settings: Settings, repository: ModelRepository, entry: Entry) -> Iterator[Finding]:
    """Yield how one model runs: its nodes, its reference images in every size, its speed, its memory.

    Raises:
        ModelFileError: it cannot be loaded or run.
    """
    name = f"{entry.name} {entry.version}"
    began = time.perf_counter()
    predictor = repository.load(entry)
    predictor.warm_up()
    yield Finding(f"{name}: provider", f"{predictor.label}, loaded and warm in {time.perf_counter() - began:.1f} s")
    if predictor.provider != "CPUExecutionProvider":
        yield _nodes(name, predictor)
    yield from _references(name, predictor)
    speeds = {predictor.label: _images_a_second(predictor)}
    if predictor.provider != "CPUExecutionProvider":
        cpu = Predictor(entry.path, replace(settings.placement, device="cpu"), settings.max_batch)
        speeds["CPU"] = _images_a_second(cpu)
        slower = speeds[predictor.label] < speeds["CPU"]
        yield Finding(f"{name}: GPU against CPU", f"{speeds[predictor.label] / speeds['CPU']:.1f} x", fault=slower)
    for label, speed in speeds.items():
        yield Finding(f"{name}: images a second, {label}", f"{speed:,.0f} in runs of {_largest(predictor)}")
    del predictor
    yield _swaps(name, repository, entry)


def _largest(predictor: Predictor) -> int:
    return min(predictor.max_run, 64) if not predictor.buckets else predictor.max_run


def _nodes(name: str, predictor: Predictor) -> Finding:
    """Return how many nodes of the graph a GPU's provider left to the CPU."""
    nodes: Counter[str] = Counter()
    for subgraph in predictor.session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    told = ", ".join(f"{count} on {provider}" for provider, count in nodes.most_common())
    on_cpu = nodes["CPUExecutionProvider"]
    return Finding(f"{name}: nodes", told or "not told", fault=on_cpu > sum(nodes.values()) / 2)


def _references(name: str, predictor: Predictor) -> Iterator[Finding]:
    """Yield the largest difference of the card's reference images, and a run's seconds, in every size of a run."""
    references = predictor.card.references
    if references is None:
        yield Finding(f"{name}: reference images", "the card has none")
        return
    pixels = references.pixels(predictor.card.shape)
    expected = np.asarray(references.probabilities, np.float32)
    tolerance = REFERENCE_TOLERANCE[predictor.card.precision]
    for size in predictor.buckets or (1, 8, 64):
        rows = np.resize(np.arange(len(pixels)), size)
        predictor.predict(pixels[rows])
        began = time.perf_counter()
        difference = float(np.abs(predictor.predict(pixels[rows]) - expected[rows]).max())
        took = 1000 * (time.perf_counter() - began)
        found = f"differ by {difference:.1e}, second run {took:.1f} ms"
        yield Finding(f"{name}: references in runs of {size}", found, fault=not difference <= tolerance)


def _images_a_second(predictor: Predictor) -> float:
    """Return the images a second of the largest runs, after one that is not counted."""
    images = np.zeros((_largest(predictor), *predictor.card.shape), np.uint8)
    predictor.predict(images)
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < MEASURED_SECONDS:
        predictor.predict(images)
        count += len(images)
    return count / took


def _swaps(name: str, repository: ModelRepository, entry: Entry) -> Finding:
    """Return how the process's memory grows while the model is loaded, run and dropped again and again."""
    process, resident = psutil.Process(), list[int]()
    for _ in range(SWAPS):
        predictor = repository.load(entry)
        predictor.predict(np.zeros((1, *predictor.card.shape), np.uint8))
        del predictor
        gc.collect()
        resident.append(process.memory_info().rss)
    before, after = max(resident[:WARM_SWAPS]), resident[-1]
    mib = 2**20
    grown = (after - before) / before
    found = f"{before / mib:.0f} MiB after {WARM_SWAPS}, {after / mib:.0f} MiB after {SWAPS} ({grown:+.1%})"
    return Finding(f"{name}: memory over {SWAPS} swaps", found, fault=grown > GROWTH)
