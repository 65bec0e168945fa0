"""What a user asks of a training, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stu_pipeline.errors import UsageError
from stu_pipeline.training.finetuning import recipes

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DEVICES = ("auto", "cuda", "cpu", "mps")
AUGMENTATIONS = ("device", "cpu", "none")
COMPILE_CHOICES = ("auto", "on", "off")
TRACKERS = ("tensorboard", "mlflow", "wandb")
RECIPE_NAMES = tuple(recipes.RECIPES)
DEFAULT_RECIPE = recipes.DEFAULT_RECIPE
DEFAULT_NUM_EPOCHS = 1000
DEFAULT_NUM_ITERATIONS = 250
DEFAULT_LEARNING_RATE = 1e-2

Fold = int | str
"""`0`, `1`... or `"all"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run of one fold.

    What is None keeps the value stored in the checkpoint when a run is continued, and takes
    nnU-Net's default when it starts.
    """

    dataset: str
    fold: Fold = 0
    scale: str | None = None
    """None: the only plan of the dataset."""
    plan_name: str | None = None
    configuration: str | None = None
    """None: 3d_fullres, or 2d for two-dimensional data."""
    num_epochs: int | None = None
    num_iterations: int | None = None
    """Training steps per epoch; a fifth of it (at least one) are validation steps."""
    learning_rate: float | None = None
    precision: str = "auto"
    device: str = "auto"
    resume: str = "auto"
    force: bool = False
    """Train a finished fold again; its files are replaced."""
    seed: int | None = None
    deterministic: bool = False
    num_workers: int | None = None
    augment: str | None = None
    """`device` (the default): nnU-Net's transforms, batched where the network runs; `cpu`: nnU-Net's own loader;
    `none`."""
    compile: str = "auto"
    """torch.compile: `auto` tries it on CUDA and goes on without it where it fails."""
    mirror: str | None = None
    """`auto` (the default): all axes, left/right labels swapped where an axis swaps them; `all`: all axes without
    swapping; `none`; or axes like `0,1`."""
    checkpoint_minutes: float = 10.0
    """Longest time between checkpoints; 0 writes one after every step."""
    num_gpus: int | None = None
    """Processes of one training; several folds run one per GPU. None: this process alone, or as torchrun says."""
    shard: bool = False
    """Spread weights and momentum over the processes (FSDP2): for networks that fit no single GPU."""
    warmup_epochs: float | None = None
    ema_decay: float | None = None
    """Keep a moving average of the weights, for example 0.999."""
    patience: int | None = None
    """Stop after so many epochs without a better moving average of the Dice."""
    pretrained: Path | None = None
    """Weights to fine-tune: a released `.model`, a `.pth` or a `.safetensors`. None trains from scratch."""
    sidecar: Path | None = None
    """The `.pkl` of a released file, where it does not lie beside it."""
    recipe: str | None = None
    """How the training goes on from these weights (`finetuning/recipes.py`); None takes `warmup`."""
    head_mapping: Path | None = None
    """JSON file that says which old label each label starts from, where names do not say it."""
    channel_mapping: str | None = None
    """The same for channels: `T1=CT,FLAIR=mean`."""
    trackers: tuple[str, ...] | None = None
    """None: TensorBoard where it is installed."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: a value makes no sense.
        """
        if self.fold != "all" and not (isinstance(self.fold, int) and self.fold >= 0):
            raise UsageError(f"fold must be 'all' or a number from 0, got '{self.fold}'")
        for name in ("num_epochs", "num_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"learning rate must be positive, got {self.learning_rate}")
        _require_one_of("precision", self.precision, PRECISIONS)
        _require_one_of("device", self.device, DEVICES)
        _require_one_of("resume", self.resume, ("auto", "never"))
        if self.augment is not None:
            _require_one_of("augment", self.augment, AUGMENTATIONS)
        _require_one_of("compile", self.compile, COMPILE_CHOICES)
        if self.mirror is not None:
            _require_mirror(self.mirror)
        _require_loop(self)
        _require_fine_tuning(self)
        _require_trackers(self.trackers)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished fold."""

    dataset: str
    plan_name: str
    configuration: str
    fold: Fold
    run_folder: Path
    model_folder: Path
    num_epochs: int
    mean_dice: float | None
    """Mean foreground Dice of the final validation."""
    dice: dict[str, float | None] = field(default_factory=dict)
    elapsed_s: float = 0.0
    was_finished: bool = False
    """Nothing was done: the fold was complete."""
    start: str = "scratch"
    """`scratch` or `pretrained`; `unknown` where stock nnU-Net trained it."""
    pretrained: str | None = None
    """Name of the file of weights it began with."""
    recipe: str | None = None
    cross_validation: Path | None = None
    """Summary over all folds, once all are there."""


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got '{value}'")


def _require_mirror(mirror: str) -> None:
    axes = mirror.split(",")
    is_axes = all(axis in ("0", "1", "2") for axis in axes) and len(set(axes)) == len(axes)
    if mirror not in ("auto", "none", "all") and not is_axes:
        raise UsageError(f"mirror must be auto, none, all or axes like 0,1,2 (in the order z, y, x), got '{mirror}'")


def _require_loop(config: TrainConfig) -> None:
    for name in ("checkpoint_minutes", "warmup_epochs"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{name} must not be negative, got {value}")
    for name in ("num_gpus", "patience"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    if config.ema_decay is not None and not 0 < config.ema_decay < 1:
        raise UsageError(f"ema_decay must be between 0 and 1, got {config.ema_decay}")


def _require_fine_tuning(config: TrainConfig) -> None:
    if config.recipe is not None:
        _require_one_of("recipe", config.recipe, RECIPE_NAMES)
    for name in ("sidecar", "head_mapping", "channel_mapping"):
        if getattr(config, name) is not None and config.pretrained is None:
            raise UsageError(f"{name} is of no use without pretrained weights", hint="add --pretrained FILE")


def _require_trackers(trackers: tuple[str, ...] | None) -> None:
    for name in trackers or ():
        _require_one_of("tracker", name, TRACKERS)
    if trackers is not None and len(set(trackers)) != len(trackers):
        raise UsageError(f"a tracker is named twice: {', '.join(trackers)}")
