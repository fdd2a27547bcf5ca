"""The one configuration of a run: the paper's recipe of the model with the user's options laid over it.

It is what the click options resolve to, what the trainer reads and what `config.json` holds.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from xtrain.data.catalog import HANDWRITTEN
from xtrain.errors import ConfigError
from training.models.registry import build, find
from xtrain.data.splits import SPLIT_SEED, VAL_FRACTION

OPTIMIZERS = ("adagrad", "adam", "adamw", "nadam", "rmsprop", "sgd")
SCHEDULERS = ("plateau", "cosine", "onecycle", "none")
AUGMENTS = ("none", "paper", "strong")
STATISTICS = ("dataset", "imagenet")
PRECISIONS = ("auto", "fp32", "bf16")
RECIPES = ("paper",)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes.

    `image_size` None is the data set's own; `crop` a centre crop after resizing; `augment` None is `paper`,
    but `none` for handwritten digits, whose class a flip can change. `options` are the architecture's switches.
    `weights` is a file of pretrained weights in place of the published one; `ema` the decay of an exponential
    moving average of the weights, which is then what is validated and kept.
    """

    model: str
    data: str
    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    patience: int
    image_size: int | None
    crop: int | None
    statistics: str
    pretrained: bool
    plateau_factor: float
    plateau_patience: int
    options: dict[str, bool]
    scheduler: str = "plateau"
    augment: str | None = None
    balance: bool = True
    protocol: str | None = None
    split_seed: int = SPLIT_SEED
    val_fraction: float = VAL_FRACTION
    seed: int = 22
    weights: str | None = None
    precision: str = "auto"
    ema: float | None = None
    label_smoothing: float = 0.0
    compile: bool = False
    deterministic: bool = False

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Read back what `as_json` gave; unknown keys of a newer version are an error.

        Raises:
            ConfigError: keys are missing or unknown.
        """
        known = {item.name for item in fields(cls)}
        if set(values) != known:
            raise ConfigError(
                f"the configuration differs in: {', '.join(sorted(set(values) ^ known))}; use the version that wrote it"
            )
        return cls(**values)


def resolve(model: str, data: str, **given: Any) -> TrainConfig:
    """Lay the options the user gave (those not None) over the paper's recipe for the model.

    Raises:
        ConfigError: an unknown model or switch, a value out of range, or options that contradict one another.
    """
    architecture = find(model)
    given = {key: value for key, value in given.items() if value is not None}
    if "image_size" in given:
        given.setdefault("crop", None)  # the recipe's crop belongs to the recipe's size
    if given.get("weights") and "pretrained" not in given:
        given["pretrained"] = True
    settings = asdict(architecture.recipe)
    on_digits = settings.pop("on_digits")
    if data in HANDWRITTEN:
        settings |= on_digits
    settings = {
        **settings,
        "pretrained": architecture.pretrained,
        "options": {},
        **given,
    }
    config = TrainConfig(model=model, data=data, **settings)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Refuse values out of range and options that contradict one another.

    Raises:
        ConfigError: with the reason.
    """
    architecture = find(config.model)
    for name, low in (
        ("batch_size", 2),
        ("epochs", 1),
        ("patience", 1),
        ("plateau_patience", 0),
        ("seed", 0),
    ):
        if getattr(config, name) < low:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is {getattr(config, name)}; it must be at least {low}")
    if not config.lr > 0:
        raise ConfigError(f"--lr is {config.lr}; it must be above 0")
    if not 0 < config.val_fraction < 1:
        raise ConfigError(f"--val-fraction is {config.val_fraction}; it must be between 0 and 1")
    if config.scheduler == "plateau" and config.patience <= config.plateau_patience:
        raise ConfigError(
            f"--patience {config.patience} is not above the plateau scheduler's {config.plateau_patience}, so the "
            "learning rate would never drop; raise it, lower --plateau-patience or use --scheduler none"
        )
    if config.pretrained and not architecture.pretrained:
        raise ConfigError(f"{config.model} has no published weights; leave --pretrained and --weights out")
    if config.weights and not config.pretrained:
        raise ConfigError("--weights and --no-pretrained contradict one another; leave one out")
    if config.ema is not None and not 0 < config.ema < 1:
        raise ConfigError(f"--ema is {config.ema}; a decay lies between 0 and 1, such as 0.999")
    if not 0 <= config.label_smoothing < 1:
        raise ConfigError(f"--label-smoothing is {config.label_smoothing}; it must be at least 0 and below 1")
    unknown = sorted(set(config.options) - set(architecture.options))
    size = (config.crop or config.image_size) if config.image_size else None
    if unknown or (size is not None and size < architecture.min_size):
        build(config.model, channels=3, classes=2, image_size=size or architecture.min_size, **config.options)
