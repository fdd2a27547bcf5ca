"""Draw where a model looked: each image, and beside it the same under its heatmap, with the predicted class.

    python examples/heatmaps.py MODEL.onnx TILE.png TILE.png ... -o heatmaps.jpg

MODEL must have been exported with --explain.
"""

from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from serving.images.overlay import overlay
from serving.model.predictor import Predictor
from xtrain import console
from xtrain.images import decode


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(model: Path, images: tuple[Path, ...], output: Path) -> None:
    """Two rows of pictures, a column an image."""
    predictor = Predictor(model, "cpu")
    pixels = np.stack([decode(path.read_bytes(), predictor.card.shape) for path in images])
    probabilities, heatmaps = predictor.predict_and_explain(pixels)
    figure = Figure(figsize=(1.9 * len(images), 4.2), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, path in enumerate(images):
        picture = Image.open(path).convert("RGB")
        top = int(probabilities[column].argmax())
        label = predictor.card.classes[top].replace(" ", "\n", 1)
        grid[0, column].imshow(picture)
        grid[0, column].set_title(path.stem.split("-")[0], fontsize=9)
        grid[1, column].imshow(overlay(picture, heatmaps[column]))
        grid[1, column].set_xlabel(f"{label}\n{probabilities[column, top]:.2f}", fontsize=8)
        for axes in grid[:, column]:
            axes.set(xticks=[], yticks=[])
    figure.savefig(output, dpi=110)
    click.echo(output)


if __name__ == "__main__":
    console.run(main)
