"""The one configuration of a run: a recipe of the model with the user's options laid over it.

`TrainConfig` is what the click options resolve to, what the trainer reads and what `config.json` holds; `RunOptions`
says where and on what a run takes place, which changes nothing that it computes.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.models.registry import RECIPES, SWITCHES, check_network, find, find_recipe
from training.optimizers import OPTIMIZERS, SCHEDULERS
from training.policies import POLICIES
from xtrain.data.catalog import is_handwritten, is_path
from xtrain.data.datasets import MAX_CLASSES
from xtrain.data.splits import PROTOCOLS, SPLIT_SEED, VAL_FRACTION
from xtrain.errors import ConfigError
from xtrain.options import check, described, make, option, plain_values, refuse_unknown

MAX_EPOCHS, MAX_SIDE = 1_000_000, 8192
STATISTICS = ("dataset", "imagenet", "pretrained")
PRECISIONS = ("auto", "fp32", "bf16")
RECIPES_OWN = "the recipe's"
_SCHEDULES = "; ".join(f"{name}, {entry.summary}" for name, entry in SCHEDULERS.items())


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Until the data is loaded, `protocol` and `image_size` None are the data set's own, and `augment` None the recipe's,
    but `none` for handwritten digits, whose class a flip can change. `crop` None is none; `switches` are the
    architecture's booleans.
    """

    model: str
    data: str
    data_dir: str | None = option(
        None,
        metavar="DIR",
        default_text="$XTRAIN_DATA, else ~/.cache/xtrain",
        resume=True,
        help="Folder in which data sets named by name are looked up and downloaded to, and large ones are unpacked.",
    )
    classes: int | None = option(
        None,
        low=2,
        high=MAX_CLASSES,
        default_text="those with training rows",
        help="Number of classes, where some have no training row.",
    )
    native_size: int | None = option(
        None,
        low=1,
        high=MAX_SIDE,
        default_text="theirs, if they have one",
        applies="a folder of pictures",
        help="Side in pixels that the pictures of a folder are brought to; what the exported model then takes.",
    )
    group_pattern: str | None = option(
        None,
        metavar="REGEX",
        default_text="none",
        applies="a folder of pictures",
        help="Regular expression that finds in a picture's path what must stay in one split, such as its patient.",
    )
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
        high=1000,
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
        high=MAX_EPOCHS,
        default_text=RECIPES_OWN,
        applies="`--scheduler plateau`",
        help="Epochs without a lower validation loss before the learning rate drops.",
    )
    batch_size: int = option(
        low=2, high=2**20, default_text=RECIPES_OWN, help="Images of one step, over all processes."
    )
    epochs: int = option(
        low=1, high=MAX_EPOCHS, default_text=RECIPES_OWN, resume=True, help="Largest number of epochs."
    )
    patience: int = option(
        low=1,
        high=MAX_EPOCHS,
        default_text=RECIPES_OWN,
        resume=True,
        help="Early stopping: epochs without a higher validation accuracy.",
    )
    image_size: int | None = option(
        None,
        low=1,
        high=MAX_SIDE,
        default_text=RECIPES_OWN,
        help="Side in pixels that images are resized to for the network.",
    )
    crop: int | None = option(
        None,
        low=1,
        high=MAX_SIDE,
        default_text="the recipe's; none with another image size than the recipe's",
        help="Side in pixels of the centre that is cut out after resizing.",
    )
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

    config: Path | None = option(
        None, metavar="FILE", help="Take all settings from the config.json of a run; options given beside it go first."
    )
    output: Path | None = option(
        None,
        flags=("-o", "--output"),
        metavar="RUN",
        default_text="runs/MODEL-DATA-seedSEED, with -2, -3, … if it is taken",
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
    handwritten = is_handwritten(data)
    values = recipe.values(handwritten=handwritten)
    if handwritten:
        values.pop("augment", None)  # settled once the data is loaded: a flip changes a digit
    if "image_size" in chosen:
        values.pop("crop", None)  # the recipe's crop belongs to the recipe's size
    optimizer = chosen.get("optimizer", values["optimizer"])
    if optimizer != values["optimizer"] and optimizer in OPTIMIZERS:
        values["lr"] = OPTIMIZERS[optimizer].learning_rate
    if chosen.get("weights") and "pretrained" not in chosen:
        values["pretrained"] = True
    switches = {**architecture.defaults, **chosen.pop("switches", {})}
    values = {"pretrained": architecture.weights is not None, **values, **chosen, "switches": switches}
    values["data_dir"] = values.get("data_dir") or os.environ.get("XTRAIN_DATA")
    for name in ("data_dir", "weights"):
        if isinstance(values.get(name), str):
            values[name] = absolute(values[name])
    config = TrainConfig(model=model, data=absolute(data) if is_path(data) else data, **values)
    check_config(config)
    return config


def absolute(path: str) -> str:
    """Return a path that means the same in every folder, so that an export finds the data later."""
    return str(Path(path).expanduser().resolve())


def read_config(path: Path, model: str, data: str | None, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the data set and the settings of a run's `config.json`, with those that the user chose laid over them.

    What the file's data had settled, such as its protocol, is left out where other data is named.

    Raises:
        ConfigError: unreadable, another model's, or settings that do not exist.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error}); name the config.json of a run") from error
    if not isinstance(values, dict) or not isinstance(values.get("data"), str) or "model" not in values:
        raise ConfigError(f"--config {path}: names no model and data; name the config.json of a run")
    refuse_unknown(values, *(item.name for item in fields(TrainConfig)))
    if values.pop("model") != model:
        raise ConfigError(f"--config {path}: is another model's; train that one, or leave --config out")
    if settings.get("recipe") not in (None, values.get("recipe")):
        raise ConfigError("--config holds every setting, so --recipe would change nothing; leave one of them out")
    stored: str = values.pop("data")
    recipe = find_recipe(find(model), str(values.get("recipe", RECIPES[0]))).values()
    other = data is not None and (absolute(data) if is_path(data) else data) != stored
    if other:
        for name in ("protocol", "augment", "classes", "native_size", "group_pattern"):
            values.pop(name, None)
    if (other or "native_size" in settings) and recipe["image_size"] is None and not values.get("crop"):
        values.pop("image_size", None)
    if settings.get("optimizer") not in (None, values.get("optimizer")):
        values.pop("lr", None)  # the rate of another optimizer
    if "image_size" in settings:
        values.pop("crop", None)
    switches = values.pop("switches", {})
    if not isinstance(switches, dict):
        raise ConfigError(f"--config {path}: its switches are no object; name the config.json of a run")
    return stored, {**values, **settings, "switches": {**switches, **settings.get("switches", {})}}


def refuse_idle(config: TrainConfig, chosen: Mapping[str, Any]) -> None:
    """Refuse options that the user chose and that would do nothing.

    Raises:
        ConfigError: with the option that would give it an effect.
    """
    for name in ("plateau_factor", "plateau_patience"):
        if chosen.get(name) is not None and config.scheduler != "plateau":
            raise ConfigError(
                f"--{name.replace('_', '-')} does nothing with --scheduler {config.scheduler}; "
                "leave it out or use --scheduler plateau"
            )


def check_config(config: TrainConfig) -> None:
    """Refuse values out of range and settings that contradict one another.

    Raises:
        ConfigError: with the reason.
    """
    check(config)
    architecture = find(config.model)
    # The rate drops after plateau_patience + 1 epochs without a lower loss, and one more must be trained with it.
    if config.scheduler == "plateau" and config.patience < config.plateau_patience + 2:
        raise ConfigError(
            f"--patience {config.patience} ends training before the plateau scheduler, after "
            f"{config.plateau_patience + 1} epochs, can lower the learning rate; use at least "
            f"--patience {config.plateau_patience + 2}, lower --plateau-patience or use --scheduler none"
        )
    if config.crop is not None and config.image_size is not None and config.crop > config.image_size:
        raise ConfigError(f"--crop {config.crop} is larger than the {config.image_size} pixels it is cut out of")
    if architecture.weights is None and (config.pretrained or config.statistics == "pretrained"):
        raise ConfigError(
            f"{config.model} has no published weights; leave --pretrained, --weights and --statistics pretrained out"
        )
    if config.weights and not config.pretrained:
        raise ConfigError("--weights and --no-pretrained contradict one another; leave one out")
    if not all(isinstance(value, bool) for value in config.switches.values()):
        raise ConfigError(f"the switches {config.switches} are not all true or false")
    check_network(config.model, config.crop or config.image_size, config.switches)
