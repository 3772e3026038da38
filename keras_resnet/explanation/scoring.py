"""Whether a heat map is right: scores that need no opinion, each beside what maps that know nothing reach.

`faithfulness` and `localisation` define the scores; this module draws the maps of several methods and scores them all.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.explanation.classifier import FEATURES, prepare, resolve_targets
from keras_resnet.explanation.faithfulness import FAITHFULNESS, faithfulness_scores, randomized_copy, sanity
from keras_resnet.explanation.localisation import LOCALISATION, energy_inside, localisation_scores
from keras_resnet.explanation.methods import BASELINES, explain, get_method
from keras_resnet.progress import ProgressBar

MARK = "mark_energy"
SCORES = (*FAITHFULNESS, *LOCALISATION, MARK)
LOWER_IS_BETTER = ("deletion", "road_morf", "average_drop", "sanity")


@dataclass(frozen=True)
class MethodScore:
    """How one method fares.

    Attributes:
        method: Name in `METHODS`.
        per_image: Score → float64 [N]; NaN where an image has no such score.
        seconds_per_image: Time to draw a map.
        constant: How many maps were constant.
    """

    method: str
    per_image: dict[str, np.ndarray]
    seconds_per_image: float
    constant: int

    def mean(self, score: str) -> float:
        """Returns the mean over the images that have the score."""
        values = self._values(score)
        return float(values.mean()) if len(values) else float("nan")

    def standard_error(self, score: str) -> float:
        """Returns the standard error of the mean; NaN for fewer than two images."""
        values = self._values(score)
        return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")

    def _values(self, score: str) -> np.ndarray:
        values = self.per_image[score]
        return values[~np.isnan(values)]

    def to_dict(self) -> dict[str, Any]:
        """Returns mean ± standard error of every score as a dictionary that JSON can hold."""
        number = lambda value: None if np.isnan(value) else value  # noqa: E731
        return {
            "method": self.method,
            "scores": {
                score: {
                    "mean": number(self.mean(score)),
                    "standard_error": number(self.standard_error(score)),
                    "count": len(self._values(score)),
                    "per_image": [number(float(value)) for value in values],
                }
                for score, values in self.per_image.items()
            },
            "seconds_per_image": self.seconds_per_image,
            "constant_maps": self.constant,
        }


def score_methods(
    model: keras.Model,
    images: np.ndarray,
    targets: Any = None,
    methods: Sequence[str] = ("gradcam",),
    *,
    layer: str = FEATURES,
    scores: Sequence[str] = FAITHFULNESS,
    masks: np.ndarray | None = None,
    mark_masks: np.ndarray | None = None,
    sanity_images: int = 16,
    seed: int = 0,
    show_progress: bool = False,
    **options: Any,
) -> list[MethodScore]:
    """Scores methods on the same images, always beside the two baselines.

    Args:
        model: The classifier.
        images: Network inputs [N, H, W, C].
        targets: As for `explain`; the predicted class by default, fixed before any pixel is changed.
        methods: Names of `METHODS`. The baselines are added.
        layer: The layer to draw on.
        scores: Names of `SCORES` that need no mask.
        masks: bool [N, H, W], where the object is; adds the scores of localisation.
        mark_masks: bool [N, H, W], where a planted mark is; adds `mark_energy`.
        sanity_images: How many of the images the sanity check takes.
        seed: Number that noise, ties and shuffled weights depend on.
        show_progress: Whether to draw a progress bar for each method on standard error.
        **options: For `explain`.

    Returns:
        One score for each method, in order, then those of the baselines.

    Raises:
        UserError: An unknown method or score, or masks that do not fit the images.
    """
    for name in methods:
        get_method(name)
    for name in scores:
        if name not in FAITHFULNESS:
            raise unknown_name("score", name, FAITHFULNESS)
    images = np.asarray(images, np.float32)
    for name, mask in (("masks", masks), ("mark_masks", mark_masks)):
        if mask is not None and np.shape(mask) != images.shape[:3]:
            raise UserError(f"{name} must be bool {images.shape[:3]}, as the images, got {np.shape(mask)}.")
    classifier = prepare(model)
    targets = resolve_targets(targets, classifier.classes, len(images))
    if (targets < 0).any():
        targets = np.where(targets < 0, classifier.probabilities(images).argmax(axis=1), targets).astype(np.int32)

    few = slice(0, sanity_images if "sanity" in scores else 0)
    names = tuple(dict.fromkeys([*methods, *BASELINES]))
    progress = ProgressBar(len(names), show=show_progress)
    drawings = 1 + len(images) + len(images[few]) * len(randomized_copy(classifier)[1])
    results = []
    for method in names:
        progress.begin(f"score {method}", drawings, "maps")

        def draw(model, images, targets, method=method):
            maps = explain(model, images, targets, method, layer, seed=seed, **options)
            progress.step(len(images))
            return maps

        draw(model, images[:1], targets[:1])  # tracing is not the method's time
        began = time.perf_counter()
        maps = draw(model, images, targets)
        seconds = (time.perf_counter() - began) / len(images)
        per_image = faithfulness_scores(classifier, images, targets, maps, scores=scores, seed=seed)
        if "sanity" in scores:
            values = np.full(len(images), np.nan)
            values[few] = sanity(model, draw, images[few], targets[few], maps[few], seed=seed)[-1]
            per_image["sanity"] = values
        if masks is not None:
            per_image |= localisation_scores(maps, masks)
        if mark_masks is not None:
            per_image[MARK] = energy_inside(maps, mark_masks)
        per_image = {name: per_image[name] for name in SCORES if name in per_image}
        results.append(MethodScore(method, per_image, seconds, int((maps.max(axis=(1, 2)) <= 0).sum())))
        progress.end()
    return results
