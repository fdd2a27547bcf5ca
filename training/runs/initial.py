"""Starting from the weights of another run (`--init-from`)."""

from pathlib import Path

from training.models.classifier import Classifier
from training.runs import checkpoint
from xtrain.errors import WeightsError


def load_run(classifier: Classifier, run: Path) -> list[str]:
    """Load the best weights of a run into a classifier in place; where classes differ, not those of the last layer.

    Returns:
        The tensors that keep their fresh initialisation.

    Raises:
        CheckpointError: no such run, or a damaged one.
        WeightsError: another model's, or a network of another shape.
    """
    saved = checkpoint.load(run)
    if saved.config.model != classifier.spec.architecture:
        raise WeightsError(
            f"--init-from {run}: holds a {saved.config.model}, not a {classifier.spec.architecture}; "
            "name a run of that model"
        )
    own, head = classifier.network.state_dict(), classifier.last_layer_name
    if saved.weights.keys() != own.keys():
        stray = min(saved.weights.keys() ^ own.keys())
        raise WeightsError(f"--init-from {run}: differs in {stray}; use the switches of that run")
    misfits = [name for name, value in saved.weights.items() if value.shape != own[name].shape]
    others = [name for name in misfits if not name.startswith(f"{head}.")]
    if others:
        raise WeightsError(
            f"--init-from {run}: {others[0]} is {tuple(saved.weights[others[0]].shape)}, here "
            f"{tuple(own[others[0]].shape)}; use the --image-size and colour mode of that run"
        )
    fitting = {name: value for name, value in saved.weights.items() if name not in misfits}
    return list(classifier.network.load_state_dict(fitting, strict=False).missing_keys)
