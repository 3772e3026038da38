"""One example of a data set as a card: the image, and the heat maps for the predicted and the true class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_resnet.explanation.overlay import blend, colorize, fit
from keras_resnet.pages import embedded

CELL = 120


@dataclass(frozen=True)
class Example:
    """One example on a page."""

    position: int
    true: int
    predicted: int
    probability: float
    true_probability: float


def describe_examples(probabilities: np.ndarray, labels: np.ndarray, positions: Sequence[int]) -> list[Example]:
    """Returns the examples at some positions.

    Args:
        probabilities: float [N, classes].
        labels: int [N], the true classes.
        positions: Which ones.
    """
    rows = probabilities[list(positions)]
    return [
        Example(int(i), int(labels[i]), int(row.argmax()), float(row.max()), float(row[labels[i]]))
        for i, row in zip(positions, rows, strict=True)
    ]


def draw_card(
    names: Sequence[str], example: Example, pixels: np.ndarray, for_predicted: np.ndarray, for_true: np.ndarray
) -> dict[str, Any]:
    """Draws the image and its maps, each with a caption and a note where a map is constant.

    Args:
        names: The class names.
        example: What is drawn.
        pixels: float32 or uint8 [H, W, 1 or 3], 0..255.
        for_predicted: float32 [H, W], 0..1, the map for the predicted class.
        for_true: The same for the true class; not shown where both are one.

    Returns:
        What the macro `card` takes.
    """
    image = as_colours(pixels)
    maps = [(example.predicted, example.probability, for_predicted)]
    if example.predicted != example.true:
        maps.append((example.true, example.true_probability, for_true))
    return {
        "kind": "right" if example.predicted == example.true else "wrong",
        "figures": [
            {"picture": picture(image, f"image {example.position}"), "caption": f"#{example.position}"},
            *(
                {
                    "picture": picture(blend(image, heat), f"map for {names[number]}"),
                    "caption": f"{names[number]} {probability:.1%}",
                    "is_constant": heat.max() <= 0,
                }
                for number, probability, heat in maps
            ),
        ],
    }


def colour_bar() -> dict[str, Any]:
    """Returns the scale of the maps' colours, as the macro `scale` takes it."""
    return picture(np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[None], 14, axis=0), "colour bar", side=256)


def as_colours(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels as a picture takes them: uint8, three channels."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def picture(pixels: np.ndarray, alternative: str, *, side: int = CELL) -> dict[str, Any]:
    """Returns an image, or a map in its colours, as the macro `image` takes it."""
    return embedded(fit(colorize(pixels) if pixels.ndim == 2 else pixels, side), alternative)
