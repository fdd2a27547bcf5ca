"""The models that answer: engines by name and version, one of them for requests that name none."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from serving.model import onnxfile
from serving.model.predictor import Predictor
from serving.model.repository import Entry, ModelRepository, natural
from serving.model.selection import Selection
from serving.scheduling.engine import Engine, OnBatch
from serving.scheduling.model_set import Key, ModelSet
from serving.settings import Settings
from xtrain.errors import ModelFileError

Say = Callable[[str], None]


class ModelNotFound(Exception):
    """No model of that name or version is loaded."""


class NoModel(Exception):
    """No model is loaded yet."""


class Models:
    """Loads models of one repository, finds them for requests, and takes them out once nobody uses them.

    A change has two steps, both under `lock`: `prepare` loads what is new, and leaves everything as it was where that
    fails; `apply` cannot fail.

    Attributes:
        default: name of the model that answers where none is named; empty while none is loaded.
        default_version: of that model; None for its latest.
        draining: whether the server is about to end; it answers, but is not ready any more.
        replaces: whether a swap takes the default model before out, as where the server was started with one file.
    """

    def __init__(self, settings: Settings, repository: ModelRepository | None, on_batch: OnBatch) -> None:
        """Make an empty set; `on_batch` is told of every run of every model."""
        self.settings, self.repository, self._on_batch = settings, repository, on_batch
        self.default, self.replaces, self.draining = "", True, False
        self.default_version: str | None = None
        self.lock = asyncio.Lock()
        self._engines: dict[Key, Engine] = {}
        self._latest: dict[str, Engine] = {}  # by name; every request looks here
        self._source, self._unloaded = "", set[str]()
        self.source_path = settings.model  # the file or folder that it was started with, links followed

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    def __bool__(self) -> bool:
        return bool(self._engines)

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send requests here."""
        return bool(self._engines) and not self.draining

    def find(self, name: str | None = None, version: str | None = None) -> Engine:
        """Return the engine of a model, of its latest version unless one is named, of the default model likewise.

        Raises:
            NoModel: none is loaded at all.
            ModelNotFound: that one is not.
        """
        if not self._engines:
            raise NoModel("the model is still loading; try again when /readyz answers 200")
        wanted = name or self.default
        if not name and version is None:
            version = self.default_version
        engine = self._latest.get(wanted) if version is None else self._engines.get((wanted, version))
        if engine is not None:
            return engine
        loaded = ", ".join(f"{other} version {one}" for other, one in list(self._engines)[:5])
        raise ModelNotFound(f"this server has {loaded}; it has not loaded what was asked for")

    def start(self, source: Path, say: Say) -> None:
        """Load what the server starts with: the source, or what was chosen instead of it; blocks.

        Args:
            source: a file, or a folder of which all models are loaded.
            say: told what was chosen earlier, and what of a folder cannot be loaded.

        Raises:
            ModelFileError, ConfigError: nothing can be loaded.
        """
        assert self.repository is not None
        chosen = Selection.read(self.repository.folder)
        is_file = self.replaces = not source.is_dir()
        self.note_source(source)
        if chosen is not None and chosen.source != self._source:
            chosen = None
        self._unloaded = set(chosen.unloaded if chosen else ())
        faults = []
        for entry in self._first_entries(source, chosen, say):
            try:
                self.check_memory([entry])
                self.put(self.make(entry))
            except ModelFileError as error:
                if is_file and chosen is None:
                    raise
                faults.append(str(error))
                say(f"note: {entry.path}: not loaded ({error})")
        if not self._engines and chosen is not None and is_file:
            self.put(self.make(self.repository.entry(str(source.resolve()))))
        if not self._engines:
            reason = f" ({faults[0]})" if faults else ""
            raise ModelFileError(f"{source}: no model in it can be loaded{reason}; put one at NAME/VERSION/model.onnx")
        names = [engine.name for engine in self._engines.values()]
        wanted = self.settings.default_model or (chosen.default if chosen else "")
        if self.settings.default_model and wanted not in names:
            raise ModelFileError(
                f"--default-model {wanted}: not among the loaded models, {', '.join(sorted(set(names)))}"
            )
        self.default = wanted if wanted in names else names[0]
        if chosen is not None and self.default == chosen.default and chosen.version in self.versions(self.default):
            self.default_version = chosen.version

    def note_source(self, source: Path) -> None:
        """Remember the file that the server was started with as it is now: what is chosen later is instead of it."""
        self._source = onnxfile.sha256(source) if source.is_file() else ""
        self.source_path = source.resolve()

    def check_memory(self, entries: Sequence[Entry]) -> None:
        """Refuse models that, beside those that they do not replace, have more bytes than all may have.

        Raises:
            ModelFileError: they do, or a file cannot be looked at.
        """
        keys = {(entry.name, entry.version) for entry in entries}
        others = sum(engine.predictor.size for key, engine in self._engines.items() if key not in keys)
        try:
            size = sum(entry.path.stat().st_size for entry in entries)
        except OSError as error:
            raise ModelFileError(f"{error.filename}: cannot be read ({error.strerror or error})") from error
        limit = self.settings.model_memory
        if others + size > limit:
            told = f"the other loaded models have {others} bytes, what is to be loaded {size}"
            raise ModelFileError(f"{told}, and --model-memory is {limit}; raise it, or unload one first")

    def make(self, entry: Entry) -> Engine:
        """Return a loaded, verified and warmed-up engine that does not answer yet; blocks.

        Raises:
            ModelFileError: a file that cannot be trusted.
            ConfigError: the device did not load.
        """
        assert self.repository is not None
        if entry.fault:
            raise ModelFileError(entry.fault)
        engine = Engine(self.repository.load(entry), self.settings, self._on_batch, entry)
        try:
            engine.warm_up()
        except BaseException:
            engine.end_thread()
            raise
        return engine

    def add(self, predictor: Predictor) -> Engine:
        """Let a warmed-up predictor answer, as the default model; return its engine."""
        engine = Engine(predictor, self.settings, self._on_batch)
        self.put(engine)
        self.default, self.default_version = engine.name, None
        return engine

    def versions(self, name: str) -> list[str]:
        """Return the loaded versions of a model, the latest last."""
        return sorted((version for other, version in self._engines if other == name), key=natural)

    def put(self, engine: Engine) -> None:
        """Let an engine answer from now on, beside the others."""
        self._engines[engine.name, engine.version] = engine
        self._note_latest()
        self.default = self.default or engine.name

    def served(self) -> ModelSet:
        """Return which models answer."""
        entries = {key: engine.entry for key, engine in self._engines.items()}
        digests = {key: engine.predictor.digest for key, engine in self._engines.items()}
        return ModelSet(entries, digests, self.default, self.default_version, frozenset(self._unloaded))

    def prepare(self, wanted: ModelSet) -> tuple[ModelSet, list[Engine]]:
        """Load what `wanted` has and does not answer yet; blocks.

        Returns:
            the set with the digests of all its files, and the engines that it has anew.

        Raises:
            ModelFileError: a file that cannot be trusted, is another than the digest says, or is one too many.
            ConfigError: the device did not load.
        """
        present = self.served().digests
        new = {key: entry for key, entry in wanted.entries.items() if wanted.digests.get(key) != present.get(key, "")}
        self.check_memory(list(new.values()))
        engines = list[Engine]()
        try:
            for key, entry in new.items():
                engine = self.make(entry)
                engines.append(engine)
                if engine.predictor.digest != wanted.digests.get(key, engine.predictor.digest):
                    raise ModelFileError(f"{entry.path}: is not the file that answers; SIGHUP lets all take it")
        except BaseException:
            for engine in engines:
                engine.end_thread()
            raise
        digests = {(engine.name, engine.version): engine.predictor.digest for engine in engines}
        return replace(wanted, digests=wanted.digests | digests), engines

    def apply(self, wanted: ModelSet, engines: Sequence[Engine]) -> list[Engine]:
        """Let `wanted` answer from now on, with the engines that `prepare` returned; return those that do no more."""
        before = self._engines
        new = {(engine.name, engine.version): engine for engine in engines}
        self._engines = {key: engine for key, engine in (before | new).items() if key in wanted.entries}
        self._note_latest()
        for key in before.keys() & new.keys():  # the same name and version: its counters must not go backwards
            if new[key].card.classes == before[key].card.classes:
                new[key].statistics = before[key].statistics
        self.default, self.default_version = wanted.default, wanted.default_version
        self._unloaded = set(wanted.unloaded)
        return [engine for key, engine in before.items() if self._engines.get(key) is not engine]

    def _note_latest(self) -> None:
        """Remember which version of each model is its latest."""
        names = dict.fromkeys(name for name, _ in self._engines)
        self._latest = {name: self._engines[name, self.versions(name)[-1]] for name in names}

    def keep_selection(self) -> str:
        """Write down what answers now; return why that was not possible, empty if it was."""
        assert self.repository is not None
        loaded = tuple(engine.entry.place for engine in self._engines.values())
        unloaded = tuple(sorted(self._unloaded))
        chosen = Selection(self._source, loaded, unloaded, self.default, self.default_version or "")
        return chosen.write(self.repository.folder)

    async def close(self) -> None:
        """Answer what waits, refuse the rest."""
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))

    def _first_entries(self, source: Path, chosen: Selection | None, say: Say) -> list[Entry]:
        """Return the entries to start with."""
        assert self.repository is not None
        if not source.is_dir():
            if chosen is None:
                return [self.repository.entry(str(source.resolve()))]
            say(f"note: {', '.join(chosen.loaded)} was chosen instead of {source.name}")
            return [entry for name in chosen.loaded if (entry := self._still_there(name, say)) is not None]
        entries = self.repository.entries()
        for entry in entries:
            if entry.fault:
                say(f"note: {entry.path}: not loaded ({entry.fault})")
        return [entry for entry in entries if not entry.fault and entry.place not in self._unloaded]

    def _still_there(self, name: str, say: Say) -> Entry | None:
        assert self.repository is not None
        try:
            return self.repository.entry(name)
        except ModelFileError as error:
            say(f"note: {name}: not loaded ({error})")
            return None
