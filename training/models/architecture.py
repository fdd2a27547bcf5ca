"""What the registry knows of an architecture: how it is built, its published weights, and its recipes.

The family files fill these in; none of it loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS = "ours"


@dataclass(frozen=True)
class Setting:
    """One value of a recipe, and where it comes from: a place in the paper, the authors' code, or `ours`."""

    value: Any
    source: str


@dataclass(frozen=True)
class Recipe:
    """Named settings of `TrainConfig` for one architecture.

    `settings` are by field name; `on_handwritten` replaces some on handwritten digits (MNIST and `digits`). `note` is
    what a user should know besides the values.
    """

    name: str
    summary: str
    settings: Mapping[str, Setting]
    on_handwritten: Mapping[str, Setting] = field(default_factory=dict)
    note: str = ""

    def values(self, handwritten: bool = False) -> dict[str, Any]:
        """Return the settings without their sources."""
        chosen = {**self.settings, **(self.on_handwritten if handwritten else {})}
        return {name: setting.value for name, setting in chosen.items()}

    def derive(self, name: str, summary: str, note: str = "", **changes: Setting) -> Recipe:
        """Return a recipe that differs in some settings."""
        return replace(self, name=name, summary=summary, note=note, settings={**self.settings, **changes})


@dataclass(frozen=True)
class PackagedFile:
    """A file that lies in an installed package.

    Attributes:
        distribution: the package's name in the registry.
        path: of the file, from the folder that the package is installed in.
        sha256: of the whole file.
        extra: the extra of xtrain that installs the package.
    """

    distribution: str
    path: str
    sha256: str
    extra: str

    def __str__(self) -> str:
        return f"{self.path} of {self.distribution}"


@dataclass(frozen=True)
class PublishedWeights:
    """ImageNet weights that somebody published.

    Attributes:
        source: address of the file, where the characters before its suffix are the start of its SHA-256; or where an
            installed package keeps it.
        head: prefix of the tensors that classify ImageNet, which are left out.
        stem: name of the first convolution's weight.
        mean: per channel, in units of [0, 1], that the weights expect of their input.
        std: as `mean`.
        rename: returns our name of a tensor of the file.
    """

    source: str | PackagedFile
    head: str
    stem: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    rename: Callable[[str], str] = str


@dataclass(frozen=True)
class Switch:
    """A boolean that changes the network itself."""

    default: bool
    help: str


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    `build(name, channels, classes, image_size, **switches)` makes the network with fresh weights; `min_size` is the
    smallest input side in pixels; the first of `recipes` is the default.
    """

    name: str
    build: Callable[..., nn.Module]
    min_size: int
    recipes: tuple[Recipe, ...]
    weights: PublishedWeights | None = None
    switches: Mapping[str, Switch] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, bool]:
        """Every switch at its default."""
        return {name: switch.default for name, switch in self.switches.items()}


def with_intended_jitter(paper: Recipe) -> tuple[Recipe, Recipe]:
    """Return the paper's recipe, and the same with the colour jitter that the paper meant to apply.

    The authors' code calls `ColorJitter()` without arguments, which is the identity, so the paper's figures are those
    without jitter.
    """
    exact = paper.derive(
        "paper", paper.summary, paper.note, augment=Setting("paper", "paper, table 2, as the authors' code computes it")
    )
    intended = paper.derive(
        "paper-intended",
        "As paper, with the colour jitter that the authors' ColorJitter() without arguments did not apply.",
        paper.note,
        augment=Setting("paper-intended", "paper, table 2, as its text describes it; strengths ours"),
    )
    return exact, intended
