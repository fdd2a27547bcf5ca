"""Published results of the MedMNIST sets, to stand beside a model's figures: official protocol, test split.

Source: Yang et al. 2023, MedMNIST v2, Scientific Data 10:41, table 3 (2-D sets); single-label sets. ResNet by the size
of its input, 28 or 224; the images are those of 28x28, enlarged.
"""

from dataclasses import dataclass

MEDMNIST_V2 = "MedMNIST v2 (Yang et al. 2023), table 3"
METHODS = (
    "ResNet-18 (28)",
    "ResNet-18 (224)",
    "ResNet-50 (28)",
    "ResNet-50 (224)",
    "auto-sklearn",
    "AutoKeras",
    "Google AutoML Vision",
)
# Set -> AUC and accuracy of each of the METHODS.
PUBLISHED: dict[str, tuple[tuple[float, float], ...]] = {
    "pathmnist": (
        (0.983, 0.907),
        (0.989, 0.909),
        (0.990, 0.911),
        (0.989, 0.892),
        (0.934, 0.716),
        (0.959, 0.834),
        (0.944, 0.728),
    ),
    "dermamnist": (
        (0.917, 0.735),
        (0.920, 0.754),
        (0.913, 0.735),
        (0.912, 0.731),
        (0.902, 0.719),
        (0.915, 0.749),
        (0.914, 0.768),
    ),
    "octmnist": (
        (0.943, 0.743),
        (0.958, 0.763),
        (0.952, 0.762),
        (0.958, 0.776),
        (0.887, 0.601),
        (0.955, 0.763),
        (0.963, 0.771),
    ),
    "pneumoniamnist": (
        (0.944, 0.854),
        (0.956, 0.864),
        (0.948, 0.854),
        (0.962, 0.884),
        (0.942, 0.855),
        (0.947, 0.878),
        (0.991, 0.946),
    ),
    "retinamnist": (
        (0.717, 0.524),
        (0.710, 0.493),
        (0.726, 0.528),
        (0.716, 0.511),
        (0.690, 0.515),
        (0.719, 0.503),
        (0.750, 0.531),
    ),
    "breastmnist": (
        (0.901, 0.863),
        (0.891, 0.833),
        (0.857, 0.812),
        (0.866, 0.842),
        (0.836, 0.803),
        (0.871, 0.831),
        (0.919, 0.861),
    ),
    "bloodmnist": (
        (0.998, 0.958),
        (0.998, 0.963),
        (0.997, 0.956),
        (0.997, 0.950),
        (0.984, 0.878),
        (0.998, 0.961),
        (0.998, 0.966),
    ),
    "tissuemnist": (
        (0.930, 0.676),
        (0.933, 0.681),
        (0.931, 0.680),
        (0.932, 0.680),
        (0.828, 0.532),
        (0.941, 0.703),
        (0.924, 0.673),
    ),
    "organamnist": (
        (0.997, 0.935),
        (0.998, 0.951),
        (0.997, 0.935),
        (0.998, 0.947),
        (0.963, 0.762),
        (0.994, 0.905),
        (0.990, 0.886),
    ),
    "organcmnist": (
        (0.992, 0.900),
        (0.994, 0.920),
        (0.992, 0.905),
        (0.993, 0.911),
        (0.976, 0.829),
        (0.990, 0.879),
        (0.988, 0.877),
    ),
    "organsmnist": (
        (0.972, 0.782),
        (0.974, 0.778),
        (0.972, 0.770),
        (0.975, 0.785),
        (0.945, 0.672),
        (0.974, 0.813),
        (0.964, 0.749),
    ),
}
ORDINAL = ("retinamnist",)  # sets whose classes are ordered (MedMNIST's task "ordinal-regression")


@dataclass(frozen=True)
class Baseline:
    """A published result; fractions, on the test split of the official protocol."""

    method: str
    accuracy: float
    auc: float
    source: str


def set_of(data: str) -> str:
    """Return the MedMNIST set that a data set of this name is, in any of its sizes; else the name."""
    name, _, size = data.lower().rpartition("_")
    return name if size in ("28", "64", "128", "224") else data.lower()


def baselines(data: str, protocol: str, split: str) -> list[Baseline]:
    """Return what was published for the very rows: none for other data, another protocol or another split."""
    if protocol != "official" or split != "test":
        return []
    rows = PUBLISHED.get(set_of(data), ())
    return [
        Baseline(method, accuracy, auc, MEDMNIST_V2) for method, (auc, accuracy) in zip(METHODS, rows, strict=False)
    ]
