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

import keras
import tensorflow as tf

from keras_resnet.errors import UserError
from keras_resnet.explanation.classifier import Classifier, known_targets
from keras_resnet.explanation.maps import RawMaps

_TARGETS = tf.TensorSpec([None], tf.int32)


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
        return features * tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)

    return _from_gradients(classifier, images, targets, layer, "gradcam", combine)


def xgradcam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """XGrad-CAM: a channel's weight is its gradient, averaged by the channel's activation."""

    def combine(features, gradients):
        total = tf.reduce_sum(features, axis=(1, 2), keepdims=True)
        weighted = tf.reduce_sum(features * gradients, axis=(1, 2), keepdims=True)
        return features * tf.math.divide_no_nan(weighted, total)

    return _from_gradients(classifier, images, targets, layer, "xgradcam", combine)


def hirescam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """HiRes-CAM: activation times gradient at each place, added over the channels."""
    return _from_gradients(
        classifier, images, targets, layer, "hirescam", lambda features, gradients: features * gradients
    )


def eigencam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Eigen-CAM: the activations' first principal component. It knows no class."""

    def build():
        @tf.function(input_signature=[classifier.images_spec])
        def compute(images):
            features = tf.convert_to_tensor(_map_of(classifier.trunk(layer)(images, training=False)))
            shape = tf.shape(features)
            rows = tf.reshape(features, [shape[0], shape[1] * shape[2], shape[3]])
            # The larger side never becomes a matrix of its own square.
            gram = tf.cond(
                shape[1] * shape[2] <= shape[3],
                lambda: tf.matmul(rows, rows, transpose_b=True),
                lambda: tf.matmul(rows, rows, transpose_a=True),
            )
            first = tf.linalg.eigh(gram)[1][:, :, -1:]
            projection = tf.cond(shape[1] * shape[2] <= shape[3], lambda: first, lambda: tf.matmul(rows, first))
            # A principal component has no sign of its own: most of the map shall be positive.
            projection *= tf.where(tf.reduce_sum(projection, axis=1, keepdims=True) < 0, -1.0, 1.0)
            values = tf.reshape(projection, shape[:3])
            return values, tf.reduce_max(tf.abs(values), axis=(1, 2))

        return compute

    del targets
    return RawMaps(*classifier.cached(("eigencam", layer), build)(images))


def integrated_gradients(
    classifier: Classifier, images, targets, *, steps: int = 32, max_batch: int = 32, **_
) -> RawMaps:
    """Integrated gradients from the zero input (the mean colour) to the image, added over the channels."""
    attributions = integrate_gradients(classifier, images, targets, steps=steps, max_batch=max_batch)
    return RawMaps(tf.reduce_sum(attributions, axis=-1), tf.reduce_max(tf.abs(attributions), axis=(1, 2, 3)))


def integrate_gradients(classifier: Classifier, images, targets, *, steps: int = 32, max_batch: int = 32) -> tf.Tensor:
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
        @tf.function(input_signature=[classifier.images_spec, _TARGETS, tf.TensorSpec([None], tf.float32)])
        def gradients(images, targets, places):
            targets = known_targets(targets, classifier.model(images, training=False))
            count = tf.shape(places)[0]
            path = places[None, :, None, None, None] * images[:, None]
            path = tf.reshape(path, tf.concat([[-1], tf.shape(images)[1:]], axis=0))
            path = tf.ensure_shape(path, classifier.images_spec.shape)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(path)
                score = _score(classifier.model(path, training=False), tf.repeat(targets, count))
            gradients = tape.gradient(score, path)
            shape = tf.concat([[tf.shape(images)[0], count], tf.shape(images)[1:]], axis=0)
            return tf.reduce_sum(tf.reshape(gradients, shape), axis=1)

        return gradients

    gradients = classifier.cached("integrated_gradients", build)
    images = tf.convert_to_tensor(images, tf.float32)
    chunk = max(1, max_batch // max(1, len(images)))
    places = (tf.range(steps, dtype=tf.float32) + 0.5) / steps
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

        @tf.function(input_signature=[classifier.images_spec, _TARGETS])
        def compute(images, targets):
            features, logits = with_logits(images, training=False)
            weights = tf.gather(dense.kernel, known_targets(targets, logits), axis=1)
            places = tf.cast(tf.shape(features)[1] * tf.shape(features)[2], tf.float32)
            return _added(features * (tf.transpose(weights) / places)[:, None, None])

        return compute

    return RawMaps(*classifier.cached(("closed form", layer), build)(images, targets))


def _from_gradients(classifier: Classifier, images, targets, layer: str, key: str, combine: Callable) -> RawMaps:
    def build():
        trunk, tail = classifier.trunk(layer), classifier.tail(layer)

        @tf.function(input_signature=[classifier.images_spec, _TARGETS])
        def compute(images, targets):
            outputs = trunk(images, training=False)
            features = _map_of(outputs)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(features)
                logits = tail(_with_map(outputs, features), training=False)
                score = _score(logits, known_targets(targets, logits))
            return _added(combine(features, tape.gradient(score, features)))

        return compute

    return RawMaps(*classifier.cached((key, layer), build)(images, targets))


def _map_of(outputs):
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def _with_map(outputs, features):
    """What the tail takes, with the layer's map in its first place."""
    others = list(outputs[1:]) if isinstance(outputs, list | tuple) else []
    return [features, *others] if others else features


def _added(contributions):
    """The sum over the channels, and the largest sum of their sizes: what rounding is measured against."""
    sizes = tf.reduce_sum(tf.abs(contributions), axis=-1)
    return tf.reduce_sum(contributions, axis=-1), tf.reduce_max(sizes, axis=(1, 2))


def _score(logits, targets):
    # Images of a batch do not see each other at inference, so the sum has each image's own gradient.
    return tf.reduce_sum(tf.gather(logits, targets, axis=1, batch_dims=1))
