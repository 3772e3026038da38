"""Whether a heat map is right: scores that need no opinion, each beside what maps that know nothing reach.

Faithfulness (higher is better unless said otherwise), from the class probability as pixels go or come:

    deletion        area under the curve as the most relevant pixels are taken away first (lower is better)
    insertion       area under the curve as they are put onto a blurred image first
    road_morf       the same, taken pixels filled in from their neighbours (lower is better)
    road_lerf       with the least relevant first
    road            (road_lerf − road_morf) / 2
    average_drop    part of the confidence that is lost where the map covers the rest of the image (lower is better)
    increase        share of images whose confidence grows under the map
    sanity          rank correlation with the map of the same network, its weights shuffled (should fall to 0)

Localisation, where the object's mask is known:

    pointing        share of maps whose highest point is on the object
    energy          share of the map's sum that is on the object
    iou             intersection over union at the map's best threshold
    mark_energy     share of the map's sum that is on a planted mark

References:
    Petsiuk et al. 2018, "RISE", arXiv:1806.07421 (insertion, deletion).
    Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", arXiv:2202.00449 (ROAD).
    Chattopadhay et al. 2018, "Grad-CAM++", arXiv:1710.11063 (average drop, increase in confidence).
    Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv:1810.03292 (cascading randomisation).
    Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop", arXiv:1608.00507 (pointing game).
    Wang et al. 2020, "Score-CAM", arXiv:1910.01279 (energy-based pointing game).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.explanation.classifier import FEATURES, Classifier, prepare, resolve_targets
from keras_resnet.explanation.methods import BASELINES, explain, get_method
from keras_resnet.models.deep_graphs import deep_graphs
from keras_resnet.progress import Progress

FAITHFULNESS = ("deletion", "insertion", "road_morf", "road_lerf", "road", "average_drop", "increase", "sanity")
LOCALISATION = ("pointing", "energy", "iou")
MARK = "mark_energy"
SCORES = (*FAITHFULNESS, *LOCALISATION, MARK)
LOWER_IS_BETTER = ("deletion", "road_morf", "average_drop", "sanity")

ROAD_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Standard deviation of ROAD's noise in network inputs: a tell-tale smooth filling would be an information of its own.
ROAD_NOISE = 0.01
# ROAD, section 4.2: direct neighbours weigh twice as much as diagonal ones.
_NEIGHBOURS = [(dy, dx, 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


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
    **options,
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
        seed: Number that noise, ties and shuffled weights hang on.
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
            raise UserError(f"{name} must be bool {images.shape[:3]}, as the images. Received {np.shape(mask)}.")
    classifier = prepare(model)
    targets = resolve_targets(targets, classifier.classes, len(images))
    if (targets < 0).any():
        targets = np.where(targets < 0, classifier.probabilities(images).argmax(axis=1), targets).astype(np.int32)

    few = slice(0, sanity_images if "sanity" in scores else 0)
    names = tuple(dict.fromkeys([*methods, *BASELINES]))
    progress = Progress(len(names), show=show_progress)
    drawings = 1 + len(images) + len(images[few]) * len(_randomized(classifier)[1])
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
        per_image = faithfulness(classifier, images, targets, maps, scores=scores, seed=seed)
        if "sanity" in scores:
            values = np.full(len(images), np.nan)
            values[few] = sanity(model, draw, images[few], targets[few], maps[few], seed=seed)[-1]
            per_image["sanity"] = values
        if masks is not None:
            per_image |= localisation(maps, masks)
        if mark_masks is not None:
            per_image[MARK] = energy_inside(maps, mark_masks)
        per_image = {name: per_image[name] for name in SCORES if name in per_image}
        results.append(MethodScore(method, per_image, seconds, int((maps.max(axis=(1, 2)) <= 0).sum())))
        progress.end()
    return results


def faithfulness(
    classifier: Classifier,
    images: np.ndarray,
    targets: np.ndarray,
    maps: np.ndarray,
    *,
    scores: Sequence[str] = FAITHFULNESS,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Computes the scores that ask the network, but for the sanity check.

    Args:
        classifier: The prepared classifier.
        images: Network inputs [N, H, W, C].
        targets: int32 [N].
        maps: Heat maps [N, H, W].
        scores: Which ones.
        seed: Number that ties and noise hang on.

    Returns:
        Score → float64 [N].
    """
    values = {}
    if "deletion" in scores:
        values["deletion"] = deletion(classifier, images, targets, maps, seed=seed)
    if "insertion" in scores:
        values["insertion"] = insertion(classifier, images, targets, maps, seed=seed)
    if {"road", "road_morf", "road_lerf"} & set(scores):
        morf, lerf = road(classifier, images, targets, maps, seed=seed)
        values |= {"road_morf": morf, "road_lerf": lerf, "road": (lerf - morf) / 2}
    if {"average_drop", "increase"} & set(scores):
        values["average_drop"], values["increase"] = confidence_change(classifier, images, targets, maps)
    return {name: value for name, value in values.items() if name in scores}


def deletion(classifier, images, targets, maps, *, steps: int = 16, seed: int = 0) -> np.ndarray:
    """Deletion AUC (Petsiuk 2018): pixels go to the mean colour, the most relevant first.

    Args:
        classifier: The prepared classifier.
        images: Network inputs [N, H, W, C].
        targets: int32 [N].
        maps: Heat maps [N, H, W].
        steps: Portions in which the pixels go.
        seed: Number that the order of equal pixels hangs on.

    Returns:
        float64 [N], 0..1: area under the class probability over the share of pixels taken. Lower is better.
    """
    return _curve_area(classifier, images, np.zeros_like(images), targets, maps, steps, seed)


def insertion(classifier, images, targets, maps, *, steps: int = 16, seed: int = 0) -> np.ndarray:
    """Insertion AUC (Petsiuk 2018): pixels come onto the blurred image (Gaussian of 5 pixels), the most relevant first.

    Args and returns as `deletion`; higher is better.
    """
    return _curve_area(classifier, blurred(images), images, targets, maps, steps, seed)


def blurred(images: np.ndarray, sigma: float = 5.0) -> np.ndarray:
    """Blurs images [N, H, W, C] with a Gaussian cut off at 5 pixels, Petsiuk's starting point of insertion."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(images, (0, sigma, sigma, 0), radius=(0, 5, 5, 0), mode="reflect")


def road(
    classifier, images, targets, maps, *, fractions: Sequence[float] = ROAD_FRACTIONS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """ROAD (Rong 2022): class probability after pixels were removed and filled in from what is left.

    Args:
        classifier: The prepared classifier.
        images: Network inputs [N, H, W, C].
        targets: int32 [N].
        maps: Heat maps [N, H, W].
        fractions: Shares of the pixels to remove.
        seed: Number that noise and the order of equal pixels hang on.

    Returns:
        (most relevant first, least relevant first), float64 [N] each: the mean probability over the fractions.
    """
    order = _order(maps, seed)
    pixels = order.shape[1]
    means = []
    for directed in (order, order[:, ::-1]):
        total = np.zeros(len(images))
        for fraction in fractions:
            removed = np.zeros((len(images), pixels), bool)
            np.put_along_axis(removed, directed[:, : round(fraction * pixels)], True, axis=1)
            removed = removed.reshape(maps.shape)
            filled = np.stack(
                [
                    impute(image, gone, seed=[seed, index])
                    for index, (image, gone) in enumerate(zip(images, removed, strict=True))
                ]
            )
            total += _target_probability(classifier, filled, targets)
        means.append(total / len(fractions))
    return means[0], means[1]


def impute(image: np.ndarray, removed: np.ndarray, *, noise: float = ROAD_NOISE, seed: Any = 0) -> np.ndarray:
    """Fills removed pixels in: each is the weighted mean of its neighbours, removed ones included, plus noise.

    Args:
        image: float32 [H, W, C].
        removed: bool [H, W].
        noise: Standard deviation of what is added to filled pixels.
        seed: Number that the noise hangs on.

    Returns:
        float32 [H, W, C]; kept pixels are unchanged.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    count = int(removed.sum())
    if count == 0:
        return image.copy()
    if removed.all():
        filled = np.broadcast_to(image.mean(axis=(0, 1)), image.shape).copy()
    else:
        number = np.full(removed.shape, -1)
        number[removed] = np.arange(count)
        places = np.argwhere(removed)
        rows, columns, weights = [np.arange(count)], [np.arange(count)], [np.zeros(count)]
        known = np.zeros((count, image.shape[-1]))
        total = np.zeros(count)
        for dy, dx, weight in _NEIGHBOURS:
            y, x = places[:, 0] + dy, places[:, 1] + dx
            inside = (y >= 0) & (y < removed.shape[0]) & (x >= 0) & (x < removed.shape[1])
            index = np.flatnonzero(inside)
            y, x = y[inside], x[inside]
            total[index] += weight
            gone = removed[y, x]
            known[index[~gone]] += weight * image[y[~gone], x[~gone]]
            rows.append(index[gone])
            columns.append(number[y[gone], x[gone]])
            weights.append(np.full(int(gone.sum()), -weight))
        weights[0] = total  # at the border there are fewer neighbours
        system = coo_array(
            (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(count, count)
        )
        filled = image.copy()
        filled[removed] = spsolve(system.tocsc(), known).reshape(count, -1)
    filled[removed] += np.random.default_rng(seed).normal(0, noise, (count, image.shape[-1]))
    return filled.astype(np.float32)


def confidence_change(classifier, images, targets, maps) -> tuple[np.ndarray, np.ndarray]:
    """Average drop and increase in confidence (Chattopadhay 2018) where the image is seen through its map.

    Returns:
        (drop, increase), float64 [N]: the part of the confidence lost, 0..1 (the paper's percentage over 100), and 1
        where the confidence grew.
    """
    before = _target_probability(classifier, images, targets)
    after = _target_probability(classifier, images * maps[..., None], targets)
    return np.maximum(0, before - after) / np.maximum(before, 1e-12), (after > before).astype(np.float64)


def sanity(
    model: keras.Model,
    draw: Callable[[keras.Model, np.ndarray, np.ndarray], np.ndarray],
    images: np.ndarray,
    targets: np.ndarray,
    maps: np.ndarray,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Sanity check by cascading randomisation (Adebayo 2018), from the logits down to the stem.

    The weights of a part are shuffled within each tensor, which keeps their distribution and so the activations' range.

    Args:
        model: The classifier; it is not changed.
        draw: (model, images, targets) → maps.
        images: Network inputs [N, H, W, C].
        targets: int32 [N].
        maps: The maps of the network as it is.
        seed: Number that the shuffling hangs on.

    Returns:
        float64 [parts, N]: Spearman's rank correlation with `maps`, −1..1, after each part was shuffled; the last row
        is that of the wholly random network. 0 where the map of the random network is constant.
    """
    copy, parts = _randomized(prepare(model))
    for layer, original in ((layer, original) for part in parts for layer, original in part):
        layer.set_weights(original.get_weights())
    generator = np.random.default_rng(seed)
    similarities = []
    for part in parts:
        for layer, _ in part:
            layer.set_weights([generator.permuted(w.reshape(-1)).reshape(w.shape) for w in layer.get_weights()])
        similarities.append(rank_correlation(maps, draw(copy, images, targets)))
    return np.stack(similarities)


def _randomized(classifier: Classifier):
    """One copy for all methods, and its parts: its compiled functions read its weights anew each time."""
    return classifier.keep("randomised", lambda: _copy_with_parts(classifier))


def _copy_with_parts(classifier: Classifier):
    """A copy of the flat graph, and its layers with weights as (copy, original), last stage first."""
    with deep_graphs():
        copy = keras.models.clone_model(classifier.model)
    groups: dict[str, list] = {}
    for layer, original in zip(copy.layers, classifier.model.layers, strict=True):
        if layer.weights:
            # stage3_block2_conv1 → stage3; conv5_block3_1_conv → conv5
            groups.setdefault(layer.name.split("_")[0], []).append((layer, original))
    return copy, list(groups.values())[::-1]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Spearman's rank correlation of maps [N, H, W] with others, float64 [N]; 0 where one is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    norm = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return np.divide((ranks[0] * ranks[1]).sum(axis=1), norm, out=np.zeros(len(first)), where=norm > 0)


def localisation(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Computes pointing game, energy inside the mask and IoU at the best threshold.

    Args:
        maps: Heat maps [N, H, W].
        masks: bool [N, H, W].

    Returns:
        Score → float64 [N], 0..1.
    """
    return {
        "pointing": pointing_game(maps, masks),
        "energy": energy_inside(maps, masks),
        "iou": best_iou(maps, masks),
    }


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns 1 where the highest point of a map is on the object (Zhang 2018), the mean over equal highest points."""
    highest = (maps == maps.max(axis=(1, 2), keepdims=True)).reshape(len(maps), -1)
    return (highest & masks.reshape(len(maps), -1)).sum(axis=1) / highest.sum(axis=1)


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the share of a map's sum that is inside the mask (Wang 2020).

    A constant map has the mask's share of the image; an image without a mask has no score (NaN).
    """
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = (maps * masks).sum(axis=(1, 2), dtype=np.float64)
    share = np.divide(inside, total, out=masks.mean(axis=(1, 2), dtype=np.float64), where=total > 0)
    return np.where(masks.any(axis=(1, 2)), share, np.nan)


def best_iou(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of {map ≥ t} with the mask at the threshold that makes it largest."""
    values = maps.reshape(len(maps), -1)
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    hits = np.cumsum(np.take_along_axis(masks.reshape(len(maps), -1), order, axis=1), axis=1)
    taken = np.arange(1, values.shape[1] + 1)
    union = taken + hits[:, -1:] - hits
    # Pixels of equal value fall on the same side of any threshold.
    possible = np.concatenate([ranked[:, 1:] < ranked[:, :-1], np.ones((len(maps), 1), bool)], axis=1)
    return np.where(possible, hits / union, 0).max(axis=1)


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Returns the area under the ROC curve: the chance that a positive's value is above a negative's, 0..1.

    With the share of a map's energy on a planted mark, of a network that learned the mark (positive) and of one that
    did not, it says whether the maps give the shortcut away.

    Raises:
        UserError: One of them is empty.
    """
    from scipy.stats import rankdata

    positive, negative = np.asarray(positive, float), np.asarray(negative, float)
    if not len(positive) or not len(negative):
        raise UserError(f"ROC AUC needs values of both kinds. Received {len(positive)} and {len(negative)}.")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def _target_probability(classifier: Classifier, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    probabilities = classifier.probabilities(images).astype(np.float64)
    return probabilities[np.arange(len(images)), targets]


def _order(maps: np.ndarray, seed: int) -> np.ndarray:
    """Pixels from the most to the least relevant, int [N, H·W]; equal ones in a random order, not from the top left."""
    values = maps.reshape(len(maps), -1)
    ties = np.random.default_rng(seed).random(values.shape[1])
    return np.stack([np.lexsort((ties, -row)) for row in values])


def _curve_area(classifier, start, end, targets, maps, steps: int, seed: int) -> np.ndarray:
    """Area under the class probability as pixels change from `start` to `end`, the most relevant first."""
    rank = np.empty((len(maps), maps[0].size), np.int64)
    order = _order(maps, seed)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None].repeat(len(maps), axis=0), axis=1)
    rank = rank.reshape(maps.shape)[..., None]
    curve = []
    for step in range(steps + 1):
        changed = rank < round(step / steps * maps[0].size)
        curve.append(_target_probability(classifier, np.where(changed, end, start), targets))
    return np.trapezoid(np.stack(curve), dx=1 / steps, axis=0)
