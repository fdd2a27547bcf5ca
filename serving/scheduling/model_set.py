"""Which models answer: what a change of them leads to, as one process tells it to another."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.model.repository import Entry

Key = tuple[str, str]  # name and version


@dataclass(frozen=True)
class ModelSet:
    """The models that answer, or should.

    Attributes:
        entries: of the repository, by name and version.
        digests: SHA-256 of their files, by name and version; a model without one is loaded, or loaded anew.
        default: name of the model that answers where none is named.
        default_version: of that model; None for its latest.
        unloaded: places in the repository of models that an administrator unloaded.
    """

    entries: dict[Key, Entry]
    digests: dict[Key, str]
    default: str
    default_version: str | None = None
    unloaded: frozenset[str] = frozenset()

    def without(self, keys: Iterable[Key]) -> "ModelSet":
        """Return the set without some models; the default version goes with its model."""
        gone = set(keys)
        entries = {key: entry for key, entry in self.entries.items() if key not in gone}
        digests = {key: digest for key, digest in self.digests.items() if key not in gone}
        version = None if (self.default, self.default_version) in gone else self.default_version
        return replace(self, entries=entries, digests=digests, default_version=version)

    def loading(self, entries: Iterable[Entry]) -> "ModelSet":
        """Return the set with some models to be loaded, or loaded anew."""
        new = {(entry.name, entry.version): entry for entry in entries}
        digests = {key: digest for key, digest in self.digests.items() if key not in new}
        places = {entry.place for entry in new.values()}
        return replace(self, entries=self.entries | new, digests=digests, unloaded=self.unloaded - places)

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` takes."""
        models = [
            {
                "name": name,
                "version": version,
                "path": str(entry.path),
                "place": entry.place,
                "sha256": self.digests.get((name, version), ""),
            }
            for (name, version), entry in self.entries.items()
        ]
        unloaded = sorted(self.unloaded)
        return {
            "models": models,
            "default": self.default,
            "default_version": self.default_version,
            "unloaded": unloaded,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelSet":
        """Return the set of which `as_json` gave the values."""
        entries, digests = {}, {}
        for one in values["models"]:
            key = one["name"], one["version"]
            entries[key] = Entry(*key, Path(one["path"]), one["place"])
            if one["sha256"]:
                digests[key] = one["sha256"]
        unloaded = frozenset(values["unloaded"])
        return cls(entries, digests, values["default"], values["default_version"], unloaded)
