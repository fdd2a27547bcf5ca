"""The model repository: the one folder whose files may be loaded, by name and version.

FOLDER/NAME/VERSION/model.onnx      the layout of Triton and KServe: the folders name model and version
FOLDER/anything.onnx                a file beside others: its card names model and version
"""

import re
from dataclasses import dataclass
from pathlib import Path

from serving.model.card import read_card
from serving.model.devices import Placement
from serving.model.predictor import MAX_RUN, Predictor
from serving.model.signature import PublicKey
from xtrain.errors import ModelFileError

MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class Entry:
    """One version of one model.

    Attributes:
        name: of the model.
        version: of the model.
        path: the file.
        place: its path below the repository, as it was when the entry was made.
        fault: why it cannot be loaded, as far as its header and card tell; empty if it can.
    """

    name: str
    version: str
    path: Path
    place: str = ""
    fault: str = ""


class ModelRepository:
    """A folder of exported files."""

    def __init__(
        self,
        folder: Path,
        placement: Placement | None = None,
        max_batch: int = MAX_RUN,
        key: PublicKey | None = None,
    ) -> None:
        """Remember the folder, where its models are to run, the largest run, and the key that must have signed them."""
        self.folder, self.placement, self.max_batch = folder.resolve(), placement or Placement(), max_batch
        self.key = key

    def entries(self) -> list[Entry]:
        """Return what the folder holds, by name and then version, numbers in their order; empty if it is gone."""
        found = [self._file_entry(path) for path in self.folder.glob("*.onnx")]
        for path in self.folder.glob(f"*/*/{MODEL_FILE}"):
            found.append(self._checked(path.parent.parent.name, path.parent.name, path))
        entries: dict[tuple[str, str], Entry] = {}
        for entry in sorted(found, key=lambda entry: (entry.name, natural(entry.version), str(entry.path))):
            entries.setdefault((entry.name, entry.version), entry)
        return list(entries.values())

    def entry(self, name: str) -> Entry:
        """Return the entry of a file.

        Args:
            name: its path, absolute or relative to the folder; links are followed before it is checked.

        Raises:
            ModelFileError: outside of the folder, or not a file with a valid card.
        """
        try:
            path = self.folder / name
            resolved = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{name[:100]!r} is not a path") from error
        if not resolved.is_relative_to(self.folder):
            raise ModelFileError("the path leads out of the folder of models; copy the file there")
        place = resolved.relative_to(self.folder).parts
        if len(place) == 3 and place[2] == MODEL_FILE:
            entry = self._checked(place[0], place[1], resolved)
        else:
            entry = self._file_entry(resolved)
        if entry.fault:
            raise ModelFileError(entry.fault)
        return entry

    def load(self, entry: Entry) -> Predictor:
        """Load and verify a model.

        Raises:
            ModelFileError: outside of the folder, or not a file that can be trusted.
            ConfigError: the device did not load.
        """
        if not entry.path.resolve().is_relative_to(self.folder):
            raise ModelFileError(f"{entry.path.name}: leads out of the folder of models; copy the file there")
        predictor = Predictor(entry.path, self.placement, self.max_batch, key=self.key)
        if self.key is not None and predictor.card.name != entry.name:
            # A signature is of the file and what is in it, not of a folder that somebody has put it into.
            raise ModelFileError(
                f"{entry.place}: the signed card names the model {predictor.card.name!r}; --verify-key takes it under "
                "no other name"
            )
        return predictor

    def _file_entry(self, path: Path) -> Entry:
        """Return the entry of a file that is named by its card, or by itself where that cannot be read."""
        try:
            card = read_card(path)
        except ModelFileError as error:
            return Entry(path.stem, "", path, self._place(path), str(error))
        return self._checked(card.name, card.version, path)

    def _checked(self, name: str, version: str, path: Path) -> Entry:
        """Return an entry with its fault, if it has one."""
        try:
            if not path.resolve().is_relative_to(self.folder):
                raise ModelFileError(f"{path.name}: leads out of the folder of models; copy the file there")
            read_card(path)
        except ModelFileError as error:
            return Entry(name, version, path, self._place(path), str(error))
        return Entry(name, version, path, self._place(path))

    def _place(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def natural(version: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts versions as people do: 2 before 10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"([0-9]{1,18})", version)]
