"""What there is to choose from: models with their parameters, recipes with the source of each value, data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from training.models.architecture import Architecture
from training.models.registry import ARCHITECTURES
from xtrain.data import catalog

CLASSES = 9  # of PathMNIST, for which parameters are counted


def listing(parts: Sequence[str]) -> dict[str, Any]:
    """Return plain JSON values for the chosen parts: `models`, `recipes`, `data`."""
    makers = {"models": _models, "recipes": _recipes, "data": catalog.listing}
    return {part: makers[part]() for part in parts}


def _models() -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "parameters": _parameters(entry),
            "smallest_image": entry.min_size,
            "recipes": [recipe.name for recipe in entry.recipes],
            "switches": entry.defaults,
            "published_weights": str(entry.weights.source) if entry.weights else None,
        }
        for entry in ARCHITECTURES.values()
    ]


def _parameters(entry: Architecture) -> int:
    """Count the parameters on torch's meta device, where tensors have no data; 3 channels, PathMNIST's classes."""
    import torch

    size = entry.recipes[0].values()
    with torch.device("meta"):
        network = entry.build(entry.name, 3, CLASSES, size.get("crop") or size["image_size"] or 28, **entry.defaults)
    return sum(parameter.numel() for parameter in network.parameters())


def _recipes() -> list[dict[str, Any]]:
    """Return every recipe once, with the models that share it."""
    shared: dict[int, dict[str, Any]] = {}
    for entry in ARCHITECTURES.values():
        for recipe in entry.recipes:
            row = shared.setdefault(
                id(recipe),
                {
                    "name": recipe.name,
                    "models": [],
                    "summary": recipe.summary,
                    "note": recipe.note,
                    "settings": _sourced(recipe.settings),
                    "on_handwritten_digits": _sourced(recipe.on_handwritten),
                },
            )
            row["models"].append(entry.name)
    return list(shared.values())


def _sourced(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"value": setting.value, "source": setting.source} for name, setting in settings.items()}


def as_text(shown: Mapping[str, Any]) -> str:
    """Return the listing as text for a terminal."""
    blocks = []
    if "models" in shown:
        width = max(len(row["name"]) for row in shown["models"])
        lines = [f"{'model':<{width}}{'parameters':>12}  from  recipes"]
        for row in shown["models"]:
            recipes = ", ".join(row["recipes"])
            lines.append(f"{row['name']:<{width}}{row['parameters']:>12,}  {row['smallest_image']:>3}   {recipes}")
        lines.append(
            "parameters at 3 channels, 9 classes and the recipe's size; from: the smallest image side in pixels"
        )
        blocks.append("\n".join(lines))
    first = {model: row for row in reversed(shown.get("recipes", [])) for model in row["models"]}
    for row in shown.get("recipes", []):
        base = first[row["models"][0]] if row is not first[row["models"][0]] else {}
        lines = [f"recipe {row['name']}: {', '.join(row['models'])}", f"  {row['summary']}"]
        lines += [f"  note: {row['note']}"] if row["note"] else []
        for title, part in (("", "settings"), (" (digits)", "on_handwritten_digits")):
            for name, setting in row[part].items():
                if base and base[part].get(name) == setting:
                    continue  # as in the model's first recipe
                lines.append(f"  {name + title:<26}{setting['value']!s:<16}{setting['source']}")
        blocks.append("\n".join(lines))
    if "data" in shown:
        lines = [f"{'data':<16}{'images':>9}  {'shape':<10}{'classes':>7}  source"]
        for row in shown["data"]:
            lines.append(
                f"{row['name']:<16}{row['images']:>9,}  {row['shape']:<10}{row['classes']:>7}  {row['source']}"
            )
        lines.append("or the path of an .npz in the MedMNIST, Kaggle or Keras key layout")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
