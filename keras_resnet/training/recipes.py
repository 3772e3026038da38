"""Every setting of a training, decided once: the frozen `Recipe`.

The flags of train.py are generated from its fields, recipe.json holds it, and a run continues only with the same one.
Nothing here imports TensorFlow, so that help and mistakes are answered at once.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from keras_resnet.choices import (
    BAD_IMAGES,
    BATCH_NORMS,
    CLASS_BALANCES,
    DECAY_FORMS,
    LOSSES,
    MOMENTUM_FORMS,
    OPTIMIZERS,
    RATE_SCALINGS,
    SCHEDULES,
)
from keras_resnet.data.preprocessing import RESIZES
from keras_resnet.distribution import DEVICES, PRECISIONS, XLA
from keras_resnet.errors import UserError, unknown_name


def _setting(default: Any, help: str, **rules: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run; each field's meaning is its help text in `train.py --help`."""

    dataset: str = _setting("digits", "data set: digits, shapes, folder:PATH, records:PATH, tfds:NAME or npz:PATH")
    data_dir: str | None = _setting(None, "where TensorFlow Datasets keeps its data", kind=str)
    bad_images: str = _setting("stop", "what to do about images that cannot be read", choices=BAD_IMAGES)
    image_size: int | None = _setting(
        None, "height and width of the network input; default: the data set's", kind=int, minimum=1
    )
    resize: str = _setting("squash", "how images get to that size: stretched, or cropped", choices=RESIZES)
    crop_fraction: float = _setting(1.0, "part of the side that the centre crop keeps", above=0.0, maximum=1.0)
    validation: float | None = _setting(
        None, "part of the training images to choose by; default: the data set's own", kind=float, above=0.0, below=1.0
    )
    train_image_size: int | None = _setting(
        None, "height and width of training images; default: those of the network input", kind=int, minimum=1
    )
    class_balance: str = _setting(
        "none",
        "make classes count alike: by weights in the loss, or by drawing",
        choices=CLASS_BALANCES,
    )
    augmentation: str = _setting(
        "default", "random changes of training images, as crop_flip,mixup:0.2; default: the data set's"
    )
    repeats: int = _setting(
        1, "times that an image comes in an epoch, changed anew each time; fewer images an epoch", minimum=1
    )

    model: str = _setting("resnet8", "network: a name of the model table, or a .json file of one of your own")
    last_gamma: str | None = _setting(
        None,
        "initial scale of each block's last normalization; default: the network's own",
        kind=str,
        choices=("ones", "zeros"),
    )
    weights: str | None = _setting(None, "weights to start from; default: random", kind=str)
    drop_rate: float = _setting(0.0, "dropout before the logits", minimum=0.0, below=1.0)
    stochastic_depth_rate: float = _setting(
        0.0, "chance that the last residual branch is dropped", minimum=0.0, below=1.0
    )

    epochs: int = _setting(40, "passes over the training images", minimum=1)
    patience: int | None = _setting(
        None, "epochs without a better one after which training stops; default: never", kind=int, minimum=1
    )
    head_epochs: int = _setting(0, "first epochs, in which the head trains alone", minimum=0)
    unfreeze_epochs: int = _setting(
        0, "epochs from one stage's joining to that of the stage below it; 0: all at once", minimum=0
    )
    freeze_until: str | None = _setting(None, "first stage that trains, as stage3 or head; default: all", kind=str)
    layer_decay: float = _setting(
        1.0, "what the learning rate is multiplied by from a block to the one below it", above=0.0, maximum=1.0
    )
    batch_size: int = _setting(64, "images per step", minimum=1)
    optimizer: str = _setting("sgd", "what updates the weights", choices=OPTIMIZERS)
    accumulate: int = _setting(1, "steps whose gradients are averaged for one update", minimum=1)
    clip_norm: float | None = _setting(
        None, "norm that all gradients together are scaled down to; default: none", kind=float, above=0.0
    )
    clip_factor: float | None = _setting(
        None, "part of its weights' norm that a unit's gradient is scaled down to; default: none", kind=float, above=0.0
    )
    learning_rate: float = _setting(0.1, "highest learning rate", above=0.0)
    learning_rate_scaling: str = _setting(
        "off", "linear: learning rates are for 256 images per update, and grow in proportion", choices=RATE_SCALINGS
    )
    schedule: str = _setting(
        "cosine",
        "course of the learning rate",
        choices=SCHEDULES,
    )
    milestones: str = _setting("0.5,0.75", "parts of the training after which schedule step lowers the rate")
    decay_factor: float = _setting(0.1, "what schedule step multiplies the rate by", above=0.0, below=1.0)
    final_learning_rate: float = _setting(0.0, "where schedule cosine ends", minimum=0.0)
    warmup_epochs: float | None = _setting(
        None, "epochs of linear warm-up; default: a twentieth of the epochs", kind=float, minimum=0.0
    )
    momentum: float = _setting(0.9, "momentum of sgd and muon; beta_1 of adamw, lamb and lion", minimum=0.0, below=1.0)
    momentum_form: str = _setting("nesterov", "form of sgd's and muon's momentum", choices=MOMENTUM_FORMS)
    weight_decay: float = _setting(5e-4, "weight decay of kernels", minimum=0.0)
    decay_form: str = _setting("l2", "sgd's: in the gradient, or beside it as the others'", choices=DECAY_FORMS)
    loss: str = _setting("cross_entropy", "loss; bce takes each class on its own", choices=LOSSES)
    target_threshold: float | None = _setting(
        None,
        "bce: mixed targets above it count as 1, others as 0; default: as they are",
        kind=float,
        minimum=0.0,
        below=1.0,
    )
    label_smoothing: float = _setting(0.0, "probability spread evenly over all classes", minimum=0.0, below=1.0)
    teacher: str | None = _setting(None, "network or exported file to learn from as well; default: none", kind=str)
    teacher_temperature: float = _setting(1.0, "what softens the answers of both", above=0.0)
    teacher_weight: float = _setting(0.5, "the teacher's part in the loss", minimum=0.0, maximum=1.0)
    ema_decay: float = _setting(
        0.0, "part of the averaged weights that a step keeps; 0: no averaging", minimum=0.0, below=1.0
    )

    seed: int = _setting(0, "seed of weights, order and augmentation", minimum=0, maximum=2**31 - 1)
    precision: str = _setting(
        "float32", "precision of the computation; auto: mixed_bfloat16 where the hardware has it", choices=PRECISIONS
    )
    xla: str = _setting("auto", "compilation with XLA", choices=XLA)
    devices: str = _setting("auto", "what to train on", choices=DEVICES)
    batch_norm: str = _setting(
        "synchronized",
        "on several devices: by statistics of the whole batch, or of each device's rows",
        choices=BATCH_NORMS,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        parse_milestones(self.milestones)
        if self.final_learning_rate > self.learning_rate:
            raise UserError(
                f"final_learning_rate must be at most learning_rate ({self.learning_rate:g}), got "
                f"{self.final_learning_rate:g}. Lower it."
            )
        if self.target_threshold is not None and self.loss != "bce":
            raise UserError(f"target_threshold belongs to loss bce, got loss {self.loss}. Leave it out.")
        if self.head_epochs >= self.epochs and self.head_epochs:
            raise UserError(
                f"head_epochs must be below epochs ({self.epochs}), got {self.head_epochs}. "
                "Lower it, or give freeze_until head to train nothing else."
            )
        if self.crop_fraction != 1 and self.resize != "crop":
            raise UserError(f"crop_fraction belongs to resize crop, got resize {self.resize}. Leave it out.")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs must be at most epochs ({self.epochs}), got {self.warmup_epochs:g}. Lower it."
            )

    @property
    def rate_factor(self) -> float:
        """What the learning rates are multiplied by.

        Reference: Goyal et al. 2017, arXiv:1706.02677, section 2.1 (the linear scaling rule), with rates for 256 images
        per update.
        """
        return self.batch_size * self.accumulate / 256 if self.learning_rate_scaling == "linear" else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that JSON can hold; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    def changed(self) -> dict[str, Any]:
        """Returns the settings that are not the defaults."""
        defaults = Recipe().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != defaults[name]}

    @classmethod
    def from_dict(cls, settings: Any) -> "Recipe":
        """Builds a recipe from some settings; the others keep their defaults.

        Raises:
            UserError: A key is unknown, or a value breaks its rule.
        """
        if not isinstance(settings, dict):
            raise UserError(f"A recipe must be settings with their values, got a {type(settings).__name__}.")
        names = [field.name for field in dataclasses.fields(cls)]
        for key in settings:
            if key not in names:
                raise unknown_name("recipe key", key, names)
        return cls(**settings)


def parse_milestones(text: str) -> tuple[float, ...]:
    """Reads "0.5,0.75": parts of a training, ascending, between 0 and 1."""
    try:
        parts = tuple(float(part) for part in text.split(","))
    except ValueError:
        parts = (0.0,)
    if not all(0 < part < 1 for part in parts) or list(parts) != sorted(set(parts)):
        raise UserError(f"milestones must be ascending numbers between 0 and 1, as 0.5,0.75, got {text!r}.")
    return parts


def setting_kind(field: dataclasses.Field) -> type:
    """Returns the type of a setting's value: int, float or str."""
    return field.metadata.get("kind") or type(field.default)


def _checked(field: dataclasses.Field, value: Any) -> Any:
    name, rules, kind = field.name, field.metadata, setting_kind(field)
    if value is None and field.default is None:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {int: "a whole number", float: "a number", str: "text"}[kind]
        if "choices" in rules:
            expected = "one of " + ", ".join(rules["choices"])
        # Files have types: a number in quotes is text, and text may look like a number.
        advice = " Write it in quotes." if kind is str else " Leave out the quotes." if _is_number(value) else ""
        raise UserError(f"{name} must be {expected}, got {value!r}.{advice}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be finite, got {value}.")
    if "choices" in rules and value not in rules["choices"]:
        raise unknown_name(name, value, rules["choices"])
    for rule, sentence, broken in (
        ("minimum", "at least", lambda limit: value < limit),
        ("maximum", "at most", lambda limit: value > limit),
        ("above", "above", lambda limit: value <= limit),
        ("below", "below", lambda limit: value >= limit),
    ):
        if rule in rules and broken(rules[rule]):
            raise UserError(f"{name} must be {sentence} {rules[rule]}, got {value}.")
    return value


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
