"""`Preprocessing`: what happens between an image and a network, as settings. Imports no TensorFlow.

`images` and `decoding` turn files into pixels, `transforms` turns pixels into network input, both by these settings.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.errors import UserError, unknown_name

COLOR_ORDERS = ("rgb", "bgr")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos3", "nearest")
RESIZES = ("squash", "crop")

MAX_IMAGE_SIZE = 8192  # pixels per side; one image of it is 805 MB as the network takes it

# Luma weights of Rec. 601 in 16-bit fixed point, as Pillow's convert("L") uses them.
LUMA = (19595, 38470, 7471)


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an image and the network; stored with every trained and exported model.

    Attributes:
        height: Height of the network input in pixels.
        width: Width of the network input in pixels.
        channels: 3 for colour or 1 for grey.
        mean: Mean of each channel for pixels scaled to 0..1, in the network's channel order.
        std: Standard deviation of each channel for pixels scaled to 0..1, in the network's channel order.
        color_order: "rgb" or "bgr", the network's channel order. Images are RGB until `normalize` reorders them.
        interpolation: "bilinear", "bicubic", "lanczos3" or "nearest"; antialiased when shrinking, as in Pillow.
        resize: "squash" stretches the whole image to the input size; "crop" keeps its proportions, brings the image to
            cover size / crop_fraction and cuts out the centre.
        crop_fraction: The part of the resized image's side that the centre crop keeps (0.875 for 256 → 224).
        labels: The class names in the order of the network's outputs; empty when unknown.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color_order: str = "rgb"
    interpolation: str = "bilinear"
    resize: str = "squash"
    crop_fraction: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"The input {name} must be a whole number of pixels of at least 1, got {value!r}.")
        if self.channels not in (1, 3) or isinstance(self.channels, bool):
            raise UserError(f"An image has 1 channel (grey) or 3 (colour), got {self.channels!r}.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, list | tuple) or not all(
                isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
                for value in values
            ):
                raise UserError(f"{name} must be a sequence of finite numbers, got {values!r}.")
            if len(values) != self.channels:
                raise UserError(
                    f"{name} needs one number per channel ({self.channels}), got {len(values)}: {values!r}."
                )
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if min(self.std) <= 0:
            raise UserError(f"std must be above 0 in every channel, got {self.std!r}.")
        for name, valid in (
            ("color_order", COLOR_ORDERS),
            ("interpolation", INTERPOLATIONS),
            ("resize", RESIZES),
        ):
            if getattr(self, name) not in valid:
                raise unknown_name(name, getattr(self, name), valid)
        if self.channels == 1 and self.color_order != "rgb":
            raise UserError(f"color_order {self.color_order!r} needs 3 channels; a grey image has 1. Use 'rgb'.")
        if (
            isinstance(self.crop_fraction, bool)
            or not isinstance(self.crop_fraction, int | float)
            or not 0 < self.crop_fraction <= 1
        ):
            raise UserError(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction!r}.")
        object.__setattr__(self, "crop_fraction", float(self.crop_fraction))
        side = max(self.height, self.width) / self.crop_fraction
        if self.resize == "crop" and side > MAX_IMAGE_SIZE:
            raise UserError(
                f"Images must have at most {MAX_IMAGE_SIZE:,} pixels a side before the crop, got {side:,.0f} "
                f"({max(self.height, self.width)} / crop_fraction {self.crop_fraction:g}). Raise crop_fraction."
            )
        if not isinstance(self.labels, list | tuple) or not all(isinstance(label, str) for label in self.labels):
            raise UserError(f"labels must be a sequence of class names, got {self.labels!r}.")
        for label in self.labels:
            # One line a class in labels.txt, in UTF-8.
            if label.splitlines() != [label] or label != label.encode("utf-8", "ignore").decode("utf-8"):
                raise UserError(f"A class name must be one line of text in UTF-8, got {label!r}. Rename the class.")
        object.__setattr__(self, "labels", tuple(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that JSON can hold; `from_dict` reads it back."""
        settings = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> "Preprocessing":
        """Builds the settings that `to_dict` wrote.

        Raises:
            UserError: A key is unknown or missing (nothing is assumed silently), or a value breaks its rule.
        """
        if not isinstance(settings, dict):
            raise UserError(f"Preprocessing is a JSON object, got {type(settings).__name__}.")
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(map(str, set(settings) - set(names)))
        if unknown:
            raise unknown_name("preprocessing key", unknown[0], names)
        missing = [name for name in names if name not in settings]
        if missing:
            raise UserError(
                f"Preprocessing needs every key, missing: {', '.join(missing)}. "
                "Take the file that was written together with the model."
            )
        return cls(**settings)

    def difference(self, other: "Preprocessing") -> str:
        """Says in which settings another preprocessing differs, each with both values; "" where in none."""
        before, after = self.to_dict(), other.to_dict()
        return "; ".join(
            f"{name} is {str(value)[:80]}, not {str(after[name])[:80]}"
            for name, value in before.items()
            if value != after[name]
        )

    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what normalization multiplies by and adds, float32 [channels] each, for pixels 0..255."""
        # One multiplication and one addition, their factors from double precision: as exact as the formula in float32,
        # and twice as fast.
        std = np.asarray(self.std, np.float64)
        scale = np.asarray(1.0 / (255.0 * std), np.float32)
        return scale, np.asarray(-np.asarray(self.mean, np.float64) / std, np.float32)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the settings in canonical JSON, as 64 hexadecimal digits."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def seen_box(preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns (top, left, bottom, right) of what the network saw of an image of `size` = (H, W)."""
    height, width = size
    if preprocessing.resize == "squash":
        return 0, 0, height, width
    # The image covers the target over crop_fraction, and the target is cut from its centre.
    scale = max(preprocessing.height / height, preprocessing.width / width) / preprocessing.crop_fraction
    seen_height = min(height, max(1, round(preprocessing.height / scale)))
    seen_width = min(width, max(1, round(preprocessing.width / scale)))
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    return top, left, top + seen_height, left + seen_width
