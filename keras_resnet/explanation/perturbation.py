"""Methods that change the input or the activations and look at what happens: Score-CAM, Ablation-CAM, occlusion.

All changed inputs of a batch are worked off in portions of at most `max_batch`, so that memory is bounded whatever the
number of channels, and `progress` is told after each portion.

References:
    Wang et al. 2020, "Score-CAM", arXiv:1910.01279.
    Desai and Ramaswamy 2020, "Ablation-CAM", WACV 2020.
    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", arXiv:1311.2901 (occlusion).
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.explanation.classifier import PREDICTED, Classifier, known_targets
from keras_resnet.explanation.maps import RawMaps, resize_maps

ProgressBar = Callable[[int, int], None]

_INDEX = tf.TensorSpec([None], tf.int32)


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
        @tf.function(input_signature=[classifier.images_spec, _map_spec(classifier, layer), _INDEX, _INDEX, _INDEX])
        def probabilities(images, features, targets, image, channel):
            masks = tf.gather_nd(tf.transpose(features, [0, 3, 1, 2]), tf.stack([image, channel], axis=1))
            masks = resize_maps(masks, tf.shape(images)[1], tf.shape(images)[2])
            low = tf.reduce_min(masks, axis=(1, 2), keepdims=True)
            high = tf.reduce_max(masks, axis=(1, 2), keepdims=True)
            masks = (masks - low) / (high - low + keras.config.epsilon())
            seen = tf.gather(images, image) * masks[..., None]
            scores = tf.nn.softmax(classifier.model(seen, training=False))
            return tf.gather(scores, tf.gather(targets, image), axis=1, batch_dims=1)

        return probabilities

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

        specs = [tf.TensorSpec(tensor.shape, tf.float32) for tensor in tail.inputs]

        @tf.function(input_signature=[specs, _INDEX, _INDEX, _INDEX])
        def logits(outputs, targets, image, channel):
            rows = [tf.gather(output, image) for output in outputs]
            rows[0] *= tf.one_hot(channel, tf.shape(rows[0])[-1], on_value=0.0, off_value=1.0)[:, None, None]
            scores = tail(rows if len(rows) > 1 else rows[0], training=False)
            return tf.gather(scores, tf.gather(targets, image), axis=1, batch_dims=1)

        return logits

    logits = classifier.cached(("ablationcam", layer), build)
    images, targets, outputs = _forward(classifier, images, targets, layer)
    without = _each_channel(
        lambda image, channel: logits(outputs, targets, image, channel), outputs[0], max_batch, progress
    )
    everything = tf.gather(classifier.logits(images), targets, axis=1, batch_dims=1).numpy()
    raw = _weighted(outputs[0], everything[:, None] - without)
    # A weight is a difference of logits: their rounding, times the activations, is the map's.
    sizes = tf.reduce_max(tf.reduce_sum(tf.abs(outputs[0]), axis=-1), axis=(1, 2)) * np.abs(everything) / 100
    return RawMaps(raw.values, tf.maximum(raw.scale, sizes))


def occlusion(classifier: Classifier, images, targets, *, max_batch: int = 64, progress=None, **_) -> RawMaps:
    """Occlusion: what the class' logit loses where a patch is covered with the mean colour.

    The patch has a quarter of the image's side and moves by half of its own; a pixel gets the mean over the patches
    that cover it.
    """

    def build():
        @tf.function(input_signature=[classifier.images_spec, _INDEX, _INDEX, tf.TensorSpec([None, 4], tf.int32)])
        def logits(images, targets, image, patch):
            rows, columns = tf.range(tf.shape(images)[1]), tf.range(tf.shape(images)[2])
            top, left, bottom, right = (patch[:, i : i + 1] for i in range(4))
            covered = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
            seen = tf.where(covered[..., None], 0.0, tf.gather(images, image))
            scores = classifier.model(seen, training=False)
            return tf.gather(scores, tf.gather(targets, image), axis=1, batch_dims=1)

        return logits

    logits = classifier.cached("occlusion", build)
    images = tf.convert_to_tensor(images, tf.float32)
    everything = classifier.logits(images)
    targets = known_targets(targets, everything)
    everything = tf.gather(everything, targets, axis=1, batch_dims=1).numpy()
    count, height, width = images.shape[:3]
    patches = _patches(height, width)
    covered = np.zeros((count, len(patches)), np.float32)
    for image, place, done in _portions(count, len(patches), max_batch):
        covered[image, place] = logits(images, targets, image, patches[place]).numpy()
        if progress:
            progress(done, count * len(patches))
    cover = np.zeros((len(patches), height, width), np.float32)
    for index, (top, left, bottom, right) in enumerate(patches):
        cover[index, top:bottom, left:right] = 1
    lost = everything[:, None] - covered
    values = np.einsum("np,pyx->nyx", lost, cover) / cover.sum(axis=0)
    return RawMaps(tf.constant(values, tf.float32), tf.constant(np.abs(everything)))


def _forward(classifier: Classifier, images, targets, layer: str):
    def build():
        return tf.function(
            lambda images: classifier.trunk(layer)(images, training=False), input_signature=[classifier.images_spec]
        )

    images = tf.convert_to_tensor(images, tf.float32)
    outputs = classifier.cached(("trunk", layer), build)(images)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    if np.any(np.asarray(targets) == PREDICTED):
        targets = known_targets(targets, classifier.logits(images))
    return images, tf.convert_to_tensor(targets, tf.int32), outputs


def _map_spec(classifier: Classifier, layer: str) -> tf.TensorSpec:
    return tf.TensorSpec(classifier.model.get_layer(layer).output.shape, tf.float32)


def _each_channel(score: Callable, features: tf.Tensor, max_batch: int, progress: ProgressBar | None) -> np.ndarray:
    """Scores every channel of every image: float32 [N, channels]."""
    count, channels = features.shape[0], features.shape[-1]
    scores = np.zeros((count, channels), np.float32)
    for image, channel, done in _portions(count, channels, max_batch):
        scores[image, channel] = score(image, channel).numpy()
        if progress:
            progress(done, count * channels)
    return scores


def _portions(count: int, places: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """All pairs of an image and a place, at most `size` at a time, and how many are done then."""
    pairs = np.arange(count * places, dtype=np.int32)
    for first in range(0, len(pairs), size):
        part = pairs[first : first + size]
        yield part // places, part % places, first + len(part)


def _weighted(features: tf.Tensor, weights: np.ndarray) -> RawMaps:
    contributions = features * weights[:, None, None]
    sizes = tf.reduce_sum(tf.abs(contributions), axis=-1)
    return RawMaps(tf.reduce_sum(contributions, axis=-1), tf.reduce_max(sizes, axis=(1, 2)))


def _patches(height: int, width: int) -> np.ndarray:
    """Corners (top, left, bottom, right) of patches that cover the image, int32 [P, 4]."""

    def spans(side: int) -> list[tuple[int, int]]:
        size = max(1, side // 4)
        step = max(1, size // 2)
        starts = sorted({*range(0, side - size + 1, step), side - size})
        return [(start, start + size) for start in starts]

    corners = [(top, left, bottom, right) for top, bottom in spans(height) for left, right in spans(width)]
    return np.array(corners, np.int32)
