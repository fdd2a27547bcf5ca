"""The model repository: the one folder whose files may be loaded while the server runs."""

from pathlib import Path

from serving.model.predictor import Predictor
from xtrain.errors import ModelFileError


class ModelRepository:
    """A folder of exported files."""

    def __init__(self, folder: Path, device: str, threads: int = 0) -> None:
        """Remember the folder, and the device and threads that its models are loaded with."""
        self.folder, self.device, self.threads = folder.resolve(), device, threads

    def load(self, name: str) -> Predictor:
        """Load, verify and warm up a file of the folder.

        Args:
            name: its path, absolute or relative to the folder; links are followed before it is checked.

        Raises:
            ModelFileError: outside of the folder, or not a file that can be trusted.
            ConfigError: the device did not load.
        """
        try:
            path = (self.folder / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"{name[:100]!r} is not a path") from error
        if not path.is_relative_to(self.folder):
            raise ModelFileError("the path leads out of the folder of models; copy the file there")
        predictor = Predictor(path, self.device, self.threads)
        predictor.warm_up()
        return predictor
