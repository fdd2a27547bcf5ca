"""The one configuration of a run: a recipe of the model with the user's options laid over it.

`TrainConfig` is what the click options resolve to, what the trainer reads and what `config.json` holds; `RunOptions`
says where and on what a run takes place, which changes nothing that it computes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.models.registry import RECIPES, SWITCHES, check_network, find, find_recipe
from training.optimizers import OPTIMIZERS, SCHEDULERS
from training.policies import POLICIES
from xtrain.data.catalog import HANDWRITTEN
from xtrain.data.splits import PROTOCOLS, SPLIT_SEED, VAL_FRACTION
from xtrain.errors import ConfigError
from xtrain.options import check, described, make, option, plain_values, refuse_unknown

STATISTICS = ("dataset", "imagenet", "pretrained")
PRECISIONS = ("auto", "fp32", "bf16")
RECIPES_OWN = "the recipe's"
_SCHEDULES = "; ".join(f"{name}, {entry.summary}" for name, entry in SCHEDULERS.items())


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes.

    `image_size` None is the data set's own; `crop` a centre crop after resizing, None for none; `augment` None is the
    recipe's, but `none` for handwritten digits, whose class a flip can change; `switches` are the architecture's
    booleans that were set.
    """

    model: str
    data: str
    recipe: str = option(RECIPES[0], choices=RECIPES, help="Where defaults come from; `xtrain list` shows them.")
    seed: int = option(22, low=0, high=2**63 - 1, help="Seed of the weights, the order of images and augmentation.")
    protocol: str | None = option(
        None,
        choices=PROTOCOLS,
        default_text="the file's",
        help="official: the file's own splits; pooled: all rows permuted and divided anew.",
    )
    split_seed: int = option(SPLIT_SEED, low=0, high=2**32 - 1, help="Seed of the division into splits.")
    val_fraction: float = option(
        VAL_FRACTION,
        low=0,
        high=1,
        open_low=True,
        open_high=True,
        applies="data without a validation split",
        help="Share of the training rows kept for validation.",
    )
    optimizer: str = option(choices=tuple(OPTIMIZERS), default_text=RECIPES_OWN, help="Optimizer.")
    lr: float = option(
        low=0,
        open_low=True,
        default_text="the recipe's; with another optimizer than the recipe's, that optimizer's",
        help="Learning rate.",
    )
    scheduler: str = option(
        choices=tuple(SCHEDULERS), default_text=RECIPES_OWN, help=f"Learning-rate schedule: {_SCHEDULES}."
    )
    plateau_factor: float = option(
        low=0,
        high=1,
        open_low=True,
        open_high=True,
        default_text=RECIPES_OWN,
        applies="`--scheduler plateau`",
        help="Factor of the learning rate at each drop.",
    )
    plateau_patience: int = option(
        low=0,
        default_text=RECIPES_OWN,
        applies="`--scheduler plateau`",
        help="Epochs without a lower validation loss before the learning rate drops.",
    )
    batch_size: int = option(low=2, default_text=RECIPES_OWN, help="Images of one step, over all processes.")
    epochs: int = option(low=1, default_text=RECIPES_OWN, resume=True, help="Largest number of epochs.")
    patience: int = option(
        low=1,
        default_text=RECIPES_OWN,
        resume=True,
        help="Early stopping: epochs without a higher validation accuracy.",
    )
    image_size: int | None = option(
        None, low=1, default_text=RECIPES_OWN, help="Side in pixels that images are resized to for the network."
    )
    crop: int | None = None
    statistics: str = option(
        choices=STATISTICS,
        default_text=RECIPES_OWN,
        help="Mean and standard deviation of the normalisation: of the training rows, of ImageNet, or those that the "
        "published weights expect.",
    )
    augment: str | None = option(
        None,
        choices=tuple(POLICIES),
        default_text="the recipe's; none for handwritten digits",
        help="Augmentation of the training images.",
    )
    balance: bool = option(default_text="the recipe's", help="Draw every class equally often.")
    pretrained: bool = option(
        default_text="where there are published weights", help="Start from published ImageNet weights."
    )
    weights: str | None = option(
        None, metavar="FILE", help="File of pretrained weights to use in place of the published one."
    )
    label_smoothing: float = option(
        0.0, low=0, high=1, open_high=True, help="Share of the target spread evenly over all classes."
    )
    ema: float | None = option(
        None,
        low=0,
        high=1,
        open_low=True,
        open_high=True,
        metavar="DECAY",
        help="Validate and keep an exponential moving average of the weights, such as 0.999.",
    )
    precision: str = option(
        "auto", choices=PRECISIONS, help="Mixed precision of the training step; auto: bf16 where the hardware has it."
    )
    compile: bool = option(False, switch=True, help="Compile the network with torch.compile.")
    deterministic: bool = option(
        False, switch=True, applies="CUDA", help="Give the same bits on every run on a GPU too, slower."
    )
    switches: dict[str, bool]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainConfig":
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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and on what a run takes place."""

    data_dir: Path | None = option(
        None,
        default_text="$XTRAIN_DATA, else ~/.cache/xtrain",
        help="Folder in which data sets named by name are looked up and downloaded to.",
    )
    output: Path | None = option(
        None,
        flags=("-o", "--output"),
        metavar="RUN",
        default_text="runs/MODEL-DATA-seedSEED",
        help="Run folder.",
    )
    resume: Path | None = option(None, metavar="RUN", help="Continue an interrupted run in its own folder.")
    device: str = option("auto", choices=("auto", "cpu", "cuda"), help="Where to compute; auto: CUDA where it works.")
    overwrite: bool = option(False, switch=True, help="Replace an earlier run in the same folder.")
    stream: bool | None = option(
        None,
        default_text="if they do not fit the memory",
        help="Read images from disk as they are needed.",
    )
    tensorboard: bool = option(False, switch=True, help="Write TensorBoard events into RUN/tensorboard.")


def divide(options: Mapping[str, Any]) -> tuple[RunOptions, dict[str, Any]]:
    """Divide keyword options into where a run takes place, and settings of `TrainConfig` with those left out None.

    Raises:
        ConfigError: an option of that name does not exist, or a `RunOptions` value is wrong.
    """
    refuse_unknown(options, *described(TrainConfig), *described(RunOptions), *SWITCHES)
    settings = plain_values(TrainConfig, {name: value for name, value in options.items() if value is not None})
    run_options = make(RunOptions, {name: settings.pop(name) for name in described(RunOptions) if name in settings})
    switches = {name: settings.pop(name) for name in SWITCHES if name in settings}
    return run_options, {**settings, "switches": switches} if switches else settings


def resolve(model: str, data: str, **settings: Any) -> TrainConfig:
    """Return a recipe of the model, overridden by the settings that the user chose.

    Args:
        model: a key of the registry.
        data: name or path of a data set.
        settings: fields of `TrainConfig`; those that are None are the recipe's.

    Raises:
        ConfigError: an unknown model, recipe or switch, a value out of range, or settings that contradict one another.
    """
    architecture = find(model)
    chosen = {name: value for name, value in settings.items() if value is not None}
    recipe = find_recipe(architecture, chosen.get("recipe", RECIPES[0]))
    values = recipe.values(handwritten=data in HANDWRITTEN)
    if data in HANDWRITTEN:
        values.pop("augment", None)  # settled once the data is loaded: a flip changes a digit
    if "image_size" in chosen:
        values.pop("crop", None)  # the recipe's crop belongs to the recipe's size
    optimizer = chosen.get("optimizer", values["optimizer"])
    if optimizer != values["optimizer"] and optimizer in OPTIMIZERS:
        values["lr"] = OPTIMIZERS[optimizer].learning_rate
    if chosen.get("weights") and "pretrained" not in chosen:
        values["pretrained"] = True
    values = {"pretrained": architecture.weights is not None, "switches": {}, **values, **chosen}
    config = TrainConfig(model=model, data=data, **values)
    check_config(config)
    return config


def check_config(config: TrainConfig) -> None:
    """Refuse values out of range and settings that contradict one another.

    Raises:
        ConfigError: with the reason.
    """
    check(config)
    architecture = find(config.model)
    if config.scheduler == "plateau" and config.patience <= config.plateau_patience:
        raise ConfigError(
            f"--patience {config.patience} is not above the plateau scheduler's {config.plateau_patience}, so the "
            "learning rate would never drop; raise it, lower --plateau-patience or use --scheduler none"
        )
    if architecture.weights is None and (config.pretrained or config.statistics == "pretrained"):
        raise ConfigError(
            f"{config.model} has no published weights; leave --pretrained, --weights and --statistics pretrained out"
        )
    if config.weights and not config.pretrained:
        raise ConfigError("--weights and --no-pretrained contradict one another; leave one out")
    if not all(isinstance(value, bool) for value in config.switches.values()):
        raise ConfigError(f"the switches {config.switches} are not all true or false")
    check_network(config.model, config.crop or config.image_size, config.switches)
