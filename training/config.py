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
from xtrain.errors import ConfigError, nearest
from xtrain.options import check, described, make, option, plain_values, refuse_unknown

MAX_EPOCHS, MAX_SIDE = 1_000_000, 8192
STATISTICS = ("dataset", "imagenet", "pretrained")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LOSSES, MIXES, MONITORS = ("cross-entropy", "focal"), ("none", "mixup", "cutmix"), ("accuracy", "loss", "f1", "auc")
LOGGERS = ("tensorboard", "wandb", "trackio", "mlflow")
AUTO = 0  # a batch size that is settled once the network and the memory are known
RECIPES_OWN = "the recipe's"
_SCHEDULES = "; ".join(f"{name}, {entry.summary}" for name, entry in SCHEDULERS.items())


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes.

    Until the data is loaded, `protocol` and `image_size` None are the data set's own, and `augment` None the recipe's;
    for handwritten digits, whose class a flip can change, it is `none` where the recipe names no policy for them.
    `crop` None is none; `switches` are the architecture's booleans.
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
    recipe: str = option(
        choices=RECIPES, default_text="the model's first", help="Where defaults come from; `xtrain list` shows them."
    )
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
    weight_decay: float | None = option(
        None, low=0, high=10, default_text="the optimizer's: 0.01 for AdamW, 0 for the others", help="Weight decay."
    )
    momentum: float | None = option(
        None, low=0, high=1, open_high=True, default_text="0.9", applies="`--optimizer sgd`", help="Momentum."
    )
    nesterov: bool | None = option(
        None, default_text="on", applies="`--optimizer sgd`", help="Look ahead along the momentum (Nesterov)."
    )
    warmup_epochs: int = option(
        0, low=0, high=MAX_EPOCHS, help="Epochs in which the learning rate rises from a hundredth to --lr."
    )
    clip_grad: float | None = option(
        None, low=0, high=1e6, open_low=True, metavar="NORM", default_text="off", help="Largest norm of the gradient."
    )
    batch_size: int = option(
        low=2,
        high=2**20,
        words={"auto": AUTO},
        default_text=RECIPES_OWN,
        help="Images of one batch, over all processes; auto: the largest power of two that the free memory holds, "
        "up to 1024.",
    )
    accumulate: int = option(
        1, low=1, high=4096, metavar="BATCHES", help="Batches whose gradients are added up for one update."
    )
    epochs: int = option(
        low=1, high=MAX_EPOCHS, default_text=RECIPES_OWN, resume=True, help="Largest number of epochs."
    )
    patience: int = option(
        low=1,
        high=MAX_EPOCHS,
        default_text=RECIPES_OWN,
        resume=True,
        help="Early stopping: epochs without a better --monitor.",
    )
    monitor: str = option(
        MONITORS[0], choices=MONITORS, help="Figure of the validation rows that decides which epoch is the best."
    )
    max_steps: int | None = option(
        None, low=1, high=10**9, resume=True, default_text="no limit", help="Largest number of updates."
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
        default_text="the recipe's; for handwritten digits none, unless the recipe has one for them",
        help="Augmentation of the training images.",
    )
    mix: str = option(
        MIXES[0],
        choices=MIXES,
        help="Mix each image with another and their labels alike: all over (Zhang et al. 2018), or a square of it "
        "(Yun et al. 2019).",
    )
    mix_alpha: float | None = option(
        None,
        low=0,
        high=100,
        open_low=True,
        metavar="ALPHA",
        default_text="0.2 for mixup, 1 for cutmix",
        applies="`--mix`",
        help="Parameter of the beta distribution of the shares.",
    )
    balance: bool = option(
        default_text="the recipe's; off with --class-weights", help="Draw every class equally often."
    )
    class_weights: bool = option(
        False, switch=True, help="Weight each class's loss by the inverse of its rows, instead of --balance."
    )
    loss: str = option(
        LOSSES[0], choices=LOSSES, help="Loss; focal has gamma 2 and looks away from what is easy (Lin et al. 2017)."
    )
    pretrained: bool = option(
        default_text="where there are published weights", help="Start from published ImageNet weights."
    )
    weights: str | None = option(
        None, metavar="FILE", help="File of pretrained weights to use in place of the published one."
    )
    init_from: str | None = option(
        None, metavar="RUN", help="Start from the weights of a run of this model; other classes get a new last layer."
    )
    freeze: int = option(
        0, low=0, high=MAX_EPOCHS, metavar="EPOCHS", help="Epochs at first in which the last layer alone is trained."
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
        "auto",
        choices=PRECISIONS,
        help="Mixed precision of the training step; auto: bf16 where the hardware has it, else fp16 on a GPU.",
    )
    compile: bool = option(False, switch=True, help="Compile the network with torch.compile.")
    deterministic: bool = option(
        False, switch=True, applies="CUDA", help="Give the same bits on every run on a GPU too, slower."
    )
    sync_bn: bool = option(
        True,
        applies="several GPUs",
        help="BatchNorm over the whole batch, as on one GPU; off is faster, because every such layer waits for all "
        "GPUs, and needs 16 images or more on each.",
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
    time_limit: float | None = option(
        None,
        low=0,
        high=1e6,
        open_low=True,
        metavar="MINUTES",
        default_text="no limit",
        help="Begin no epoch that would end later than this, going by the one before; --resume goes on.",
    )
    profile: bool = option(
        False,
        switch=True,
        help="Write a trace of 20 steps of the first epoch, RUN/trace.json, for a browser's trace viewer.",
    )
    log: str | None = option(
        None,
        several=True,
        flags=("--log", "--logger"),  # torchrun takes `--log` for the beginning of options of its own
        metavar="NAMES",
        help=f"Log to these as well, one or several separated by commas: {', '.join(LOGGERS)}. A failure of one never "
        "stops training.",
    )
    tensorboard: bool = option(False, switch=True, help="The same as --log tensorboard.")

    @property
    def loggers(self) -> tuple[str, ...]:
        """The names of --log, each once.

        Raises:
            ConfigError: one is none of `LOGGERS`.
        """
        given = [] if self.log is None else [word.strip() for word in self.log.split(",")]
        for word in given:
            if word not in LOGGERS:
                raise ConfigError(f"--log is {word!r}; {nearest(word, LOGGERS)}")
        return tuple(dict.fromkeys([*given, *(["tensorboard"] if self.tensorboard else [])]))


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
    recipe = find_recipe(architecture, chosen.get("recipe", architecture.recipes[0].name))
    handwritten = is_handwritten(data)
    values = recipe.values(handwritten=handwritten)
    if handwritten and "augment" not in recipe.on_handwritten:
        values.pop("augment", None)  # settled once the data is loaded: a flip changes a digit
    if "image_size" in chosen:
        values.pop("crop", None)  # the recipe's crop belongs to the recipe's size
    optimizer = chosen.get("optimizer", values["optimizer"])
    if optimizer != values["optimizer"] and optimizer in OPTIMIZERS:
        values["lr"] = OPTIMIZERS[optimizer].learning_rate
    if chosen.get("class_weights"):
        values["balance"] = False
    if chosen.get("weights") and "pretrained" not in chosen:
        values["pretrained"] = True
    switches = {**architecture.defaults, **chosen.pop("switches", {})}
    pretrained = architecture.weights is not None and not chosen.get("init_from")
    values = {"recipe": recipe.name, "pretrained": pretrained, **values, **chosen, "switches": switches}
    values["data_dir"] = values.get("data_dir") or os.environ.get("XTRAIN_DATA")
    for name in ("data_dir", "weights", "init_from"):
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
    architecture = find(model)
    recipe = find_recipe(architecture, str(values.get("recipe", architecture.recipes[0].name))).values()
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
    owners = {name: entry for entry in OPTIMIZERS for name in OPTIMIZERS[entry].options}
    needed = {name: ("scheduler", "plateau") for name in ("plateau_factor", "plateau_patience")}
    needed |= {name: ("optimizer", owner) for name, owner in owners.items()}
    for name, (setting, value) in needed.items():
        if chosen.get(name) is not None and getattr(config, setting) != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} does nothing with --{setting} {getattr(config, setting)}; "
                f"leave it out or use --{setting} {value}"
            )
    if chosen.get("mix_alpha") is not None and config.mix == "none":
        raise ConfigError("--mix-alpha does nothing without --mix; leave it out or use --mix mixup")


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
    if config.scheduler == "onecycle" and config.warmup_epochs:
        raise ConfigError("--scheduler onecycle warms up by itself; leave --warmup-epochs out")
    if config.nesterov and config.momentum == 0:
        raise ConfigError("--nesterov needs a momentum; leave --momentum 0 out or use --no-nesterov")
    if config.class_weights and config.balance:
        raise ConfigError("--class-weights and --balance both make up for rare classes; leave one out")
    if config.init_from and (config.pretrained or config.weights):
        raise ConfigError("--init-from and published weights both start the network; leave one out")
    if config.freeze and not (config.pretrained or config.init_from):
        raise ConfigError("--freeze would keep random weights; use it with --pretrained or --init-from")
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
