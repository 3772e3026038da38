"""Methods from one pass forward and at most one backward, compiled: Grad-CAM and its kin, integrated gradients.

Gradients run from the logits back to the layer only, never through what lies before it.

References:
    Zhou et al. 2016, "Learning Deep Features for Discriminative Localization", arXiv:1512.04150 (CAM).
    Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391.
    Fu et al. 2020, "Axiom-based Grad-CAM", arXiv:2008.02312 (XGrad-CAM).
    Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM", arXiv:2011.08891.
    Muhammad and Yeasin 2020, "Eigen-CAM", arXiv:2008.00299.
    Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", arXiv:1703.01365 (integrated gradients).
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet.backends import gradient
from keras_resnet.errors import UserError
from keras_resnet.explanation.classifier import Classifier, known_targets
from keras_resnet.explanation.maps import RawMaps

_TARGETS = ((None,), "int32")


def cam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """CAM: the head's weights of the class over the last feature map. Needs a GAP → Dense head, no gradient."""
    return _closed_form(classifier, images, targets, layer, "CAM")


def gradcam_closed_form(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Grad-CAM where the head is GAP → Dense: the gradient is the head's weight over the number of positions."""
    return _closed_form(classifier, images, targets, layer, "Grad-CAM in closed form")


def gradcam(classifier: Classifier, images, targets, *, layer: str, **options) -> RawMaps:
    """Grad-CAM: in closed form where the head allows it, by gradients elsewhere; both give the same map."""
    if classifier.closed_form_head(layer) is not None:
        return gradcam_closed_form(classifier, images, targets, layer=layer, **options)
    return gradcam_gradient(classifier, images, targets, layer=layer, **options)


def gradcam_gradient(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Grad-CAM by gradients, for any layer and head."""

    def combine(features, gradients):
        return features * ops.mean(gradients, axis=(1, 2), keepdims=True)

    return _from_gradients(classifier, images, targets, layer, "gradcam", combine)


def xgradcam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """XGrad-CAM: a channel's weight is its gradient, averaged by the channel's activation."""

    def combine(features, gradients):
        total = ops.sum(features, axis=(1, 2), keepdims=True)
        weighted = ops.sum(features * gradients, axis=(1, 2), keepdims=True)
        return features * ops.divide_no_nan(weighted, total)

    return _from_gradients(classifier, images, targets, layer, "xgradcam", combine)


def hirescam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """HiRes-CAM: activation times gradient at each place, added over the channels."""
    return _from_gradients(
        classifier, images, targets, layer, "hirescam", lambda features, gradients: features * gradients
    )


def eigencam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Eigen-CAM: the activations' first principal component. It knows no class."""

    def build():
        trunk = classifier.trunk(layer)

        def compute(images):
            features = ops.convert_to_tensor(_map_of(trunk(images, training=False)))
            height, width, channels = ops.shape(features)[1:]
            rows = ops.reshape(features, (-1, height * width, channels))
            transposed = ops.transpose(rows, (0, 2, 1))
            # The larger side never becomes a matrix of its own square.
            is_small = height * width <= channels
            gram = _either(is_small, lambda: ops.matmul(rows, transposed), lambda: ops.matmul(transposed, rows))
            first = ops.eigh(gram)[1][:, :, -1:]
            projection = _either(is_small, lambda: first, lambda: ops.matmul(rows, first))
            # A principal component has no sign of its own: most of the map shall be positive.
            projection *= ops.where(ops.sum(projection, axis=1, keepdims=True) < 0, -1.0, 1.0)
            values = ops.reshape(projection, (-1, height, width))
            return values, ops.max(ops.abs(values), axis=(1, 2))

        return classifier.compiled(compute)

    del targets
    return RawMaps(*classifier.cached(("eigencam", layer), build)(images))


def integrated_gradients(
    classifier: Classifier, images, targets, *, steps: int = 32, max_batch: int = 32, **_
) -> RawMaps:
    """Integrated gradients from the zero input (the mean colour) to the image, added over the channels."""
    attributions = integrate_gradients(classifier, images, targets, steps=steps, max_batch=max_batch)
    return RawMaps(ops.sum(attributions, axis=-1), ops.max(ops.abs(attributions), axis=(1, 2, 3)))


def integrate_gradients(classifier: Classifier, images, targets, *, steps: int = 32, max_batch: int = 32) -> Any:
    """Computes the attributions of integrated gradients before they are made a map.

    Args:
        classifier: The classifier.
        images: Network inputs [N, H, W, C].
        targets: int32 [N].
        steps: Places along the path; the middle of each step is taken.
        max_batch: Network inputs in one pass at most.

    Returns:
        float32 [N, H, W, C]. Over an image they add up to the logit's change along the path (completeness).
    """

    def build():
        def gradients(images, targets, places):
            targets = known_targets(targets, classifier.model(images, training=False))
            shape = ops.shape(images)
            path = places[None, :, None, None, None] * images[:, None]
            path = ops.reshape(path, (-1, *shape[1:]))
            repeated = ops.reshape(targets[:, None] + ops.zeros_like(places, dtype="int32")[None], (-1,))
            found = gradient(lambda path: _score(classifier.model(path, training=False), repeated), path)
            return ops.sum(ops.reshape(found, (-1, ops.shape(places)[0], *shape[1:])), axis=1)

        return classifier.compiled(gradients, _TARGETS, ((None,), "float32"))

    gradients = classifier.cached("integrated_gradients", build)
    images = np.asarray(images, np.float32)
    chunk = max(1, max_batch // max(1, len(images)))
    places = (np.arange(steps, dtype=np.float32) + np.float32(0.5)) / np.float32(steps)
    total = sum(gradients(images, targets, places[i : i + chunk]) for i in range(0, steps, chunk))
    return images * total / steps


def _closed_form(classifier: Classifier, images, targets, layer: str, what: str) -> RawMaps:
    dense = classifier.closed_form_head(layer)
    if dense is None:
        raise UserError(
            f"{what} needs global average pooling and one dense layer right behind the layer; behind {layer!r} this "
            "network has something else. Use the layer 'features', or the method 'gradcam_gradient'."
        )

    def build():
        with_logits = keras.Model(
            classifier.model.input, [classifier.model.get_layer(layer).output, classifier.model.output]
        )

        def compute(images, targets):
            features, logits = with_logits(images, training=False)
            weights = ops.take(ops.convert_to_tensor(dense.kernel), known_targets(targets, logits), axis=1)
            height, width = ops.shape(features)[1:3]
            return _added(features * (ops.transpose(weights) / ops.cast(height * width, "float32"))[:, None, None])

        return classifier.compiled(compute, _TARGETS)

    return RawMaps(*classifier.cached(("closed form", layer), build)(images, targets))


def _from_gradients(classifier: Classifier, images, targets, layer: str, key: str, combine: Callable) -> RawMaps:
    def build():
        trunk, tail = classifier.trunk(layer), classifier.tail(layer)

        def compute(images, targets):
            outputs = trunk(images, training=False)
            features = _map_of(outputs)

            def score(features):
                logits = tail(_with_map(outputs, features), training=False)
                return _score(logits, known_targets(targets, logits))

            return _added(combine(features, gradient(score, features)))

        return classifier.compiled(compute, _TARGETS)

    return RawMaps(*classifier.cached((key, layer), build)(images, targets))


def _map_of(outputs):
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def _with_map(outputs, features):
    """What the tail takes, with the layer's map in its first place."""
    others = list(outputs[1:]) if isinstance(outputs, list | tuple) else []
    return [features, *others] if others else features


def _added(contributions):
    """The sum over the channels, and the largest sum of their sizes: what rounding is measured against."""
    sizes = ops.sum(ops.abs(contributions), axis=-1)
    return ops.sum(contributions, axis=-1), ops.max(sizes, axis=(1, 2))


def _score(logits, targets):
    # Images of a batch do not see each other at inference, so the sum has each image's own gradient.
    return ops.sum(ops.take_along_axis(logits, targets[:, None], axis=1))


def _either(condition, first: Callable, second: Callable):
    """One of two, decided now where the sizes are known, and in the graph where they vary."""
    if isinstance(condition, bool):
        return first() if condition else second()
    return ops.cond(condition, first, second)
