"""Faithfulness: what the class probability does as pixels go or come. Higher is better unless said otherwise.

    deletion        area under the curve as the most relevant pixels are taken away first (lower is better)
    insertion       area under the curve as they are put onto a blurred image first
    road_morf       the same, taken pixels filled in from their neighbours (lower is better)
    road_lerf       with the least relevant first
    road            (road_lerf − road_morf) / 2
    average_drop    part of the confidence that is lost where the map covers the rest of the image (lower is better)
    increase        share of images whose confidence grows under the map
    sanity          rank correlation with the map of the same network, its weights shuffled (should fall to 0)

References:
    Petsiuk et al. 2018, "RISE", arXiv:1806.07421 (insertion, deletion).
    Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", arXiv:2202.00449 (ROAD).
    Chattopadhay et al. 2018, "Grad-CAM++", arXiv:1710.11063 (average drop, increase in confidence).
    Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv:1810.03292 (cascading randomisation).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from scipy.stats import rankdata

from keras_resnet.explanation.classifier import Classifier, prepare
from keras_resnet.models.deep_graphs import deep_graphs

FAITHFULNESS = ("deletion", "insertion", "road_morf", "road_lerf", "road", "average_drop", "increase", "sanity")

ROAD_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Standard deviation of ROAD's noise in network inputs: a tell-tale smooth filling would be an information of its own.
ROAD_NOISE = 0.01
# ROAD, section 4.2: direct neighbours weigh twice as much as diagonal ones.
_NEIGHBOURS = [(dy, dx, 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def faithfulness_scores(
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
        seed: Number that ties and noise depend on.

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
        seed: Number that the order of equal pixels depends on.

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
        seed: Number that noise and the order of equal pixels depend on.

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
        seed: Number that the noise depends on.

    Returns:
        float32 [H, W, C]; kept pixels are unchanged.
    """
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
        seed: Number that the shuffling depends on.

    Returns:
        float64 [parts, N]: Spearman's rank correlation with `maps`, −1..1, after each part was shuffled; the last row
        is that of the wholly random network. 0 where the map of the random network is constant.
    """
    copy, parts = randomized_copy(prepare(model))
    for layer, original in ((layer, original) for part in parts for layer, original in part):
        layer.set_weights(original.get_weights())
    generator = np.random.default_rng(seed)
    similarities = []
    for part in parts:
        for layer, _ in part:
            layer.set_weights([generator.permuted(w.reshape(-1)).reshape(w.shape) for w in layer.get_weights()])
        similarities.append(rank_correlation(maps, draw(copy, images, targets)))
    return np.stack(similarities)


def randomized_copy(classifier: Classifier) -> tuple[keras.Model, list]:
    """Returns a copy whose weights may be shuffled, and its parts.

    One copy serves all methods: its compiled functions read its weights anew each time.
    """
    return classifier.cached("randomised", lambda: _copy_with_parts(classifier))


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
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    norm = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return np.divide((ranks[0] * ranks[1]).sum(axis=1), norm, out=np.zeros(len(first)), where=norm > 0)


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
