"""Statistics of batch normalization measured anew, for weights that no training step has seen.

The running statistics of a training belong to its weights as they went. Averaged weights are other weights: their
features have other means and variances (Izmailov et al. 2018, arXiv:1803.05407, section 3.2; Wu & Johnson 2021,
"Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3).
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet.backends import as_array, compiled
from keras_resnet.graphs.rewriting import copy_layer, rewrite
from keras_resnet.training.fused_normalization import FusedBatchNormalization, copy_weights

IMAGES = 2048  # what the statistics are measured on: each channel of the smallest map has thousands of values then


class BatchStatistics:
    """Measures a network's statistics over some batches.

    Args:
        model: The network, with `keras.layers.BatchNormalization`. Frozen ones keep their statistics.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        # A model that is compiled, or of a class of its own, would be copied with all that.
        self._measuring = rewrite(keras.Model(model.inputs, model.outputs), _measuring_layer)
        pairs = zip(model.layers, self._measuring.layers, strict=True)
        self._pairs = [(own, measured) for own, measured in pairs if isinstance(measured, _OfTheBatch)]

        def forward(images: Any) -> list[tuple[Any, Any]]:
            self._measuring(images, training=False)  # dropout is off, as when the network is evaluated
            layers = [layer for _, layer in self._pairs]
            return [tuple(map(ops.convert_to_tensor, (each.moving_mean, each.moving_variance))) for each in layers]

        self._forward = compiled(forward, lambda: self._measuring.variables, [(model.input_shape, "float32")])

    def measure(self, batches: Iterable[Any]) -> None:
        """Sets the network's statistics to those of all images together, with its weights of now.

        Args:
            batches: (images, anything) of one size, normalised.
        """
        if not self._pairs:
            return
        copy_weights(self._model, self._measuring)
        means = [0.0] * len(self._pairs)
        squares = [0.0] * len(self._pairs)
        count = 0
        for images, _ in batches:
            found = self._forward(images)
            count += 1
            for number, (mean, variance) in enumerate(found):
                mean = as_array(mean).astype(np.float64)
                means[number] = means[number] + mean
                squares[number] = squares[number] + as_array(variance).astype(np.float64) + mean**2
        for (layer, _), mean, square in zip(self._pairs, means, squares, strict=True):
            mean = mean / count
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(square / count - mean**2, 0.0))


class _OfTheBatch:
    """Normalizes by the batch's statistics whatever it is told, and keeps those of the last batch alone."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=True, mask=mask)


class _FusedOfTheBatch(_OfTheBatch, FusedBatchNormalization):
    pass


class _PlainOfTheBatch(_OfTheBatch, keras.layers.BatchNormalization):
    pass


def _measuring_layer(layer: Any) -> Any:
    if not isinstance(layer, keras.layers.BatchNormalization) or not layer.trainable:
        return copy_layer(layer)
    kind = _FusedOfTheBatch if isinstance(layer, FusedBatchNormalization) else _PlainOfTheBatch
    return kind.from_config({**layer.get_config(), "momentum": 0.0})
