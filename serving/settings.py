"""The settings of one server: `xserve`'s options, the `XTRAIN_…` environment variables of a container, the limits."""

from dataclasses import dataclass, replace
from pathlib import Path

from serving.model.devices import DEVICES, PROVIDERS, Placement, parse_devices, usable_cores
from serving.model.repository import ModelRepository
from serving.model.signature import PublicKey
from xtrain.errors import ConfigError
from xtrain.options import option

DEFAULT_MODEL = Path("/models/model.onnx")  # where a container finds it mounted
MIB, GIB, TIB = 2**20, 2**30, 2**40


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one server serves, and what it accepts."""

    model: Path = option(DEFAULT_MODEL, metavar="MODEL", help="The exported file, or a folder of models.")
    default_model: str = option(
        "", metavar="NAME", help="Of a folder: the model that answers where none is named.", default_text="the first"
    )
    model_memory: int = option(
        4 * GIB, low=1, high=TIB, help="Bytes that the files of all loaded models may have together."
    )
    device: str = option("auto", choices=DEVICES, help="Where to compute; auto: CUDA where it works.")
    devices: str = option(
        "",
        metavar="LIST",
        default_text="one",
        help="GPUs such as 0,1,2, each with a process and a copy of the models; cpu:N: N processes that share the CPU.",
    )
    workers: int = option(
        1, low=1, high=256, help="Processes for each GPU, or on the CPU, which share its cores, limits and memory."
    )
    threads: int = option(0, low=0, high=1024, help="Threads of one run on the CPU, at most one a core; 0: one a core.")
    gpu_memory: int = option(0, low=0, high=TIB, help="Bytes that onnxruntime may take of a GPU's memory; 0: no limit.")
    max_batch: int = option(64, low=1, high=65_536, help="Largest number of images in one run.")
    max_delay_ms: float = option(
        0.0, low=0, high=60_000, help="Milliseconds that an idle server waits for more images before it runs."
    )
    max_queue: int = option(
        1024, low=1, high=1_000_000, help="Images that may wait for a run; more are refused with 429."
    )
    decoders: int = option(
        0, low=0, high=1024, help="Processes that decode images and JSON, from 2 to four a core; 0: one a core."
    )
    timeout: float = option(
        30.0,
        low=0,
        high=86_400,
        open_low=True,
        help="Seconds from the head of a request to its answer, and 1 more for each 128 KiB of its body.",
    )
    drain: float = option(
        0.0,
        low=0,
        high=3600,
        help="Seconds that a server answers on after SIGTERM while /readyz is 503, for its load balancer to notice.",
    )
    max_bytes: int = option(16 * MIB, low=1, high=TIB, help="Largest body of one image, in bytes.")
    max_batch_bytes: int = option(
        64 * MIB, low=1, high=TIB, help="Largest body of many images, in bytes, unpacked ones too."
    )
    memory_budget: int = option(
        256 * MIB,
        low=1,
        high=TIB,
        help="Bytes that bodies, and decoding them, may take in all requests together; more is refused with 429.",
    )
    max_connections: int = option(
        1024, low=1, high=1_000_000, help="Connections; beyond, idle ones are closed, and new ones get 503."
    )
    grpc: str = option(
        "", metavar="HOST:PORT", default_text="not at all", help="Answer gRPC there too; needs xtrain[grpc]."
    )
    certificate: Path | None = option(
        None,
        metavar="FILE",
        default_text="no TLS",
        help="PEM file of the certificate, for TLS, with its key or without.",
    )
    key: Path | None = option(
        None, metavar="FILE", default_text="in the same file", help="PEM file of the certificate's key."
    )
    verify_key: Path | None = option(
        None,
        metavar="FILE",
        default_text="any model is loaded",
        help="PEM file of the public Ed25519 key that must have signed every model that is loaded; see xexport --sign.",
    )
    tokens: Path | None = option(
        None,
        metavar="FILE",
        default_text="no token needed",
        help="File of bearer tokens, one a line, of which every request needs one; behind it, its requests a second.",
    )
    admin_tokens: Path | None = option(
        None,
        metavar="FILE",
        default_text="nobody may",
        help="File of the tokens that may load and unload models of the folder.",
    )

    worker: int = 1  # of `worker_count`, which one this is; set by `of_worker` alone

    @property
    def gpus(self) -> list[int | None]:
        """For each process the number of its GPU, None for the first one or the CPU.

        Raises:
            ConfigError: `devices` is no such list, or `device` contradicts it.
        """
        found = parse_devices(self.devices)
        is_cpu = None in found
        if found and self.device not in (("auto", "cpu") if is_cpu else ("auto", *PROVIDERS)):
            raise ConfigError(f"--devices {self.devices} and --device {self.device} contradict; leave one of them out")
        return (found or [None]) * self.workers

    @property
    def worker_count(self) -> int:
        """Processes that answer."""
        return len(self.gpus)

    @property
    def placement(self) -> Placement:
        """Where and how models run in this process."""
        device = self.device
        if self.devices and device == "auto":
            device = "cpu" if self.devices.startswith("cpu") else "cuda"
        return Placement(device, self.threads, self.gpu_memory, self.gpus[self.worker - 1])

    def of_worker(self, index: int) -> "Settings":
        """Return the settings of one of the processes: limits, memory and cores are divided between them.

        Args:
            index: from 1.
        """
        count = self.worker_count
        if count == 1:
            return self

        def share(whole: int) -> int:
            return -(-whole // count)

        return replace(
            self,
            worker=index,
            threads=max(1, (self.threads or usable_cores()) // count),
            gpu_memory=self.gpu_memory // self.workers,
            max_queue=share(self.max_queue),
            decoders=share(self.decoders or usable_cores()),
            # No less than a body of the largest size and what it is unpacked to, or none could be answered.
            memory_budget=max(share(self.memory_budget), min(self.memory_budget, 2 * self.max_batch_bytes)),
            max_connections=share(self.max_connections),
        )

    def open_repository(self) -> ModelRepository:
        """Return the models that this process may load.

        Raises:
            ConfigError: `verify_key` is no key.
        """
        key = None if self.verify_key is None else PublicKey.read(self.verify_key)
        return ModelRepository(self.repository, self.placement, self.max_batch, key)

    @property
    def repository(self) -> Path:
        """The folder whose models may be loaded: the model's own, or the model if it is a folder."""
        model = self.model.resolve()
        return model if model.is_dir() else model.parent
