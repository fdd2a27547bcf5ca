"""What an administrator chose to serve, kept in the model repository, so that it survives a crash and a restart."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from xtrain.errors import OutputError
from xtrain.files import open_atomic

FILE = ".xserve.json"


@dataclass(frozen=True)
class Selection:
    """The models that answer.

    Attributes:
        source: SHA-256 of the file that the server was started with; empty for a folder. With another file, what was
            chosen before is void.
        loaded: paths below the repository of the models that are loaded.
        unloaded: and of those that were unloaded.
        default: name of the model that answers where none is named.
        version: of the default model; empty for its latest.
    """

    source: str
    loaded: tuple[str, ...]
    unloaded: tuple[str, ...]
    default: str
    version: str = ""

    @classmethod
    def read(cls, folder: Path) -> "Selection | None":
        """Return what was chosen; None if nothing was, or it cannot be read."""
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            loaded, unloaded = (tuple(map(str, values[name])) for name in ("loaded", "unloaded"))
            return cls(str(values["source"]), loaded, unloaded, str(values["default"]), str(values["version"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, folder: Path) -> str:
        """Keep it; return why that was not possible, which costs only the next start its memory."""
        try:
            with open_atomic(folder / FILE, "w") as file:
                file.write(json.dumps(asdict(self), indent=1) + "\n")
        except (OSError, OutputError) as error:
            return str(error)
        return ""
