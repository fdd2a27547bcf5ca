"""The registry: every architecture by name. `build` makes a network; nothing loads torch before.

`ARCHITECTURES` is what the command line, the exporter and the tests iterate over. All networks take normalised float
images (N, C, H, W) and return logits (N, classes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.models import alexnet, mobile, resnet, simplecnn, xception
from training.models.architecture import Architecture, Recipe, Switch
from xtrain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import nn

FAMILIES = (simplecnn, alexnet, resnet, xception, mobile)
ARCHITECTURES: dict[str, Architecture] = {entry.name: entry for family in FAMILIES for entry in family.ARCHITECTURES}
SWITCHES: dict[str, Switch] = {
    name: switch for entry in ARCHITECTURES.values() for name, switch in entry.switches.items()
}
# The names of all recipes; an architecture's default is its own first one.
RECIPES: tuple[str, ...] = tuple(
    dict.fromkeys(recipe.name for entry in ARCHITECTURES.values() for recipe in entry.recipes)
)


def find(name: str) -> Architecture:
    """Return the entry of an architecture.

    Raises:
        ConfigError: unknown, with the nearest names.
    """
    try:
        return ARCHITECTURES[name]
    except (KeyError, TypeError):
        raise ConfigError(f"no model is called {name!r}; {nearest(str(name), ARCHITECTURES)}") from None


def find_recipe(architecture: Architecture, name: str) -> Recipe:
    """Return a recipe of an architecture.

    Raises:
        ConfigError: it has none of that name, with those that it has.
    """
    for recipe in architecture.recipes:
        if recipe.name == name:
            return recipe
    raise ConfigError(
        f"{architecture.name} has no recipe {name!r}; {nearest(name, [recipe.name for recipe in architecture.recipes])}"
    )


def check_network(name: str, image_size: int | None, switches: dict[str, bool]) -> None:
    """Refuse switches that an architecture does not have and images that are too small for it.

    Raises:
        ConfigError: with what would work.
    """
    entry = find(name)
    unknown = sorted(set(switches) - set(entry.switches))
    if unknown:
        takers = [other.name for other in ARCHITECTURES.values() if unknown[0] in other.switches]
        flag = "--" + unknown[0].replace("_", "-")
        raise ConfigError(f"{name} has no switch {flag}; it belongs to {', '.join(takers) or 'no model'}")
    if image_size is not None and image_size < entry.min_size:
        raise ConfigError(
            f"{name} takes images from {entry.min_size} pixels, not {image_size}; "
            f"use --image-size {entry.min_size} or larger"
        )


def build(name: str, *, channels: int, classes: int, image_size: int, **switches: bool) -> nn.Module:
    """Make a freshly initialised network.

    Args:
        name: a key of `ARCHITECTURES`.
        channels: 1 (grey) or 3 (RGB).
        classes: number of logits, at least 1.
        image_size: side of the square input in pixels.
        switches: the architecture's switches; those not named keep their defaults.

    Raises:
        ConfigError: an unknown name or switch, or an image size below what the network takes.
    """
    check_network(name, image_size, switches)
    entry = find(name)
    return entry.build(name, channels, classes, image_size, **{**entry.defaults, **switches})
