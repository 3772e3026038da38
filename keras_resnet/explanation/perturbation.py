"""Methods that change the input or the activations and look at what happens: Score-CAM, Ablation-CAM, occlusion.

All changed inputs of a batch are worked off in portions of at most `max_batch`, so that memory is bounded whatever the
number of channels, and `progress` is told after each portion.

References:
    Wang et al. 2020, "Score-CAM", arXiv:1910.01279.
    Desai and Ramaswamy 2020, "Ablation-CAM", WACV 2020.
    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901 (occlusion).
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet.backends import as_array, compiled
from keras_resnet.explanation.classifier import PREDICTED, Classifier, known_targets
from keras_resnet.explanation.maps import RawMaps, resize_maps

ProgressBar = Callable[[int, int], None]

_INDEX = ((None,), "int32")


def scorecam(
    classifier: Classifier,
    images,
    targets,
    *,
    layer: str,
    max_batch: int = 64,
    progress: ProgressBar | None = None,
    **_,
) -> RawMaps:
    """Score-CAM: a channel's weight is the class probability of the image seen through that channel's map."""

    def build():
        def probabilities(images, features, targets, image, channel):
            height, width, channels = ops.shape(features)[1:]
            masks = ops.reshape(ops.transpose(features, (0, 3, 1, 2)), (-1, height, width))
            masks = resize_maps(ops.take(masks, image * channels + channel, axis=0), *ops.shape(images)[1:3])
            low = ops.min(masks, axis=(1, 2), keepdims=True)
            high = ops.max(masks, axis=(1, 2), keepdims=True)
            masks = (masks - low) / (high - low + keras.config.epsilon())
            seen = ops.take(images, image, axis=0) * masks[..., None]
            scores = ops.softmax(classifier.model(seen, training=False))
            return _of_class(scores, ops.take(targets, image))

        return classifier.compiled(probabilities, _map_signature(classifier, layer), _INDEX, _INDEX, _INDEX)

    probabilities = classifier.cached(("scorecam", layer), build)
    images, targets, outputs = _forward(classifier, images, targets, layer)
    features = outputs[0]
    weights = _each_channel(
        lambda image, channel: probabilities(images, features, targets, image, channel),
        features, max_batch, progress,
    )  # fmt: skip
    return _weighted(features, weights)


def ablationcam(
    classifier: Classifier,
    images,
    targets,
    *,
    layer: str,
    max_batch: int = 64,
    progress: ProgressBar | None = None,
    **_,
) -> RawMaps:
    """Ablation-CAM: a channel's weight is what the class' logit loses without it.

    The paper divides by the logit, which scales a map and would turn its sign where the logit is negative.
    """

    def build():
        tail = classifier.tail(layer)

        def logits(targets, image, channel, *outputs):
            rows = [ops.take(output, image, axis=0) for output in outputs]
            rows[0] *= 1.0 - ops.one_hot(channel, ops.shape(rows[0])[-1])[:, None, None]
            scores = tail(rows if len(rows) > 1 else rows[0], training=False)
            return _of_class(scores, ops.take(targets, image))

        taken = [(tuple(tensor.shape), "float32") for tensor in tail.inputs]
        return compiled(logits, lambda: tail.variables, [_INDEX, _INDEX, _INDEX, *taken])

    logits = classifier.cached(("ablationcam", layer), build)
    images, targets, outputs = _forward(classifier, images, targets, layer)
    without = _each_channel(
        lambda image, channel: logits(targets, image, channel, *outputs), outputs[0], max_batch, progress
    )
    everything = as_array(_of_class(classifier.logits(images), targets))
    raw = _weighted(outputs[0], everything[:, None] - without)
    # A weight is a difference of logits: their rounding, times the activations, is the map's.
    sizes = ops.max(ops.sum(ops.abs(outputs[0]), axis=-1), axis=(1, 2)) * np.abs(everything) / 100
    return RawMaps(raw.values, ops.maximum(raw.scale, sizes))


def occlusion(classifier: Classifier, images, targets, *, max_batch: int = 64, progress=None, **_) -> RawMaps:
    """Occlusion: what the class' logit loses where a patch is covered with the mean colour.

    The patch has a quarter of the image's side and moves by half of its own; a pixel gets the mean over the patches
    that cover it.
    """

    def build():
        def logits(images, targets, image, patch):
            height, width = ops.shape(images)[1:3]
            rows, columns = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
            top, left, bottom, right = (patch[:, i : i + 1] for i in range(4))
            inside_rows = ops.logical_and(rows >= top, rows < bottom)
            inside_columns = ops.logical_and(columns >= left, columns < right)
            covered = ops.logical_and(inside_rows[:, :, None], inside_columns[:, None])
            seen = ops.where(covered[..., None], 0.0, ops.take(images, image, axis=0))
            scores = classifier.model(seen, training=False)
            return _of_class(scores, ops.take(targets, image))

        return classifier.compiled(logits, _INDEX, _INDEX, ((None, 4), "int32"))

    logits = classifier.cached("occlusion", build)
    images = ops.convert_to_tensor(images, "float32")
    everything = classifier.logits(images)
    targets = known_targets(targets, everything)
    everything = as_array(_of_class(everything, targets))
    count, height, width = images.shape[:3]
    patches = _patches(height, width)
    covered = np.zeros((count, len(patches)), np.float32)
    for image, place, done in _portions(count, len(patches), max_batch):
        covered[image, place] = as_array(logits(images, targets, image, patches[place]))
        if progress:
            progress(done, count * len(patches))
    cover = np.zeros((len(patches), height, width), np.float32)
    for index, (top, left, bottom, right) in enumerate(patches):
        cover[index, top:bottom, left:right] = 1
    lost = everything[:, None] - covered
    values = np.einsum("np,pyx->nyx", lost, cover) / cover.sum(axis=0)
    return RawMaps(values.astype(np.float32), np.abs(everything))


def _forward(classifier: Classifier, images, targets, layer: str):
    def build():
        trunk = classifier.trunk(layer)
        return classifier.compiled(lambda images: trunk(images, training=False))

    images = ops.convert_to_tensor(images, "float32")
    outputs = classifier.cached(("trunk", layer), build)(images)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if np.any(np.asarray(targets) == PREDICTED):
        targets = known_targets(targets, classifier.logits(images))
    return images, ops.convert_to_tensor(targets, "int32"), outputs


def _map_signature(classifier: Classifier, layer: str) -> tuple[tuple[int | None, ...], str]:
    return tuple(classifier.model.get_layer(layer).output.shape), "float32"


def _of_class(scores, targets):
    """What each row has for its class, [N]."""
    return ops.take_along_axis(scores, targets[:, None], axis=1)[:, 0]


def _each_channel(score: Callable, features: Any, max_batch: int, progress: ProgressBar | None) -> np.ndarray:
    """Scores every channel of every image: float32 [N, channels]."""
    count, channels = features.shape[0], features.shape[-1]
    scores = np.zeros((count, channels), np.float32)
    for image, channel, done in _portions(count, channels, max_batch):
        scores[image, channel] = as_array(score(image, channel))
        if progress:
            progress(done, count * channels)
    return scores


def _portions(count: int, places: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """All pairs of an image and a place, at most `size` at a time, and how many are done then."""
    pairs = np.arange(count * places, dtype=np.int32)
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        yield part // places, part % places, first + len(part)


def _weighted(features: Any, weights: np.ndarray) -> RawMaps:
    contributions = features * weights[:, None, None]
    sizes = ops.sum(ops.abs(contributions), axis=-1)
    return RawMaps(ops.sum(contributions, axis=-1), ops.max(sizes, axis=(1, 2)))


def _patches(height: int, width: int) -> np.ndarray:
    """Corners (top, left, bottom, right) of patches that cover the image, int32 [P, 4]."""

    def spans(side: int) -> list[tuple[int, int]]:
        size = max(1, side // 4)
        step = max(1, size // 2)
        starts = sorted({*range(0, side - size + 1, step), side - size})
        return [(start, start + size) for start in starts]

    corners = [(top, left, bottom, right) for top, bottom in spans(height) for left, right in spans(width)]
    return np.array(corners, np.int32)
