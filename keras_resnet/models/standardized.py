"""Convolution with weight standardisation, the one layer here that Keras does not have.

A `.keras` file that holds it loads with `keras_resnet.load_model`, or with `keras.saving.load_model` once this module
is imported (`from keras_resnet import WeightStandardizedConv2D`). Folding makes plain convolutions of it, so exported
files need nothing.
"""

from typing import Any

import keras
import numpy as np
from keras import layers


@keras.saving.register_keras_serializable(package="keras_resnet")
class WeightStandardizedConv2D(layers.Conv2D):
    """A Conv2D that computes with its kernel brought to mean 0 and variance 1, each output channel by itself.

    The variable `kernel` holds the kernel as it is trained, so weights travel unchanged. Mean and variance are computed
    in float32 at least under every precision policy, because `epsilon` is nothing in half precision.

    Args:
        filters: Output channels.
        kernel_size: Side of the kernel, or (height, width).
        epsilon: Added to the variance; BiT's 1e-8.
        **options: As for `keras.layers.Conv2D`.

    Reference:
        Qiao et al. 2019, arXiv:1903.10520, section 3.
    """

    def __init__(self, filters: int, kernel_size: int | tuple[int, int], *, epsilon: float = 1e-8, **options: Any):
        super().__init__(filters, kernel_size, **options)
        self.epsilon = epsilon

    def add_weight(self, *args, **options):
        if options.get("name") == "kernel":
            options["autocast"] = False
        return super().add_weight(*args, **options)

    def convolution_op(self, inputs, kernel):
        kernel = keras.ops.cast(kernel, keras.backend.result_type(kernel.dtype, "float32"))
        kernel = kernel - keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        variance = keras.ops.mean(keras.ops.square(kernel), axis=(0, 1, 2), keepdims=True)
        kernel = kernel * keras.ops.rsqrt(variance + self.epsilon)
        return super().convolution_op(inputs, keras.ops.cast(kernel, self.compute_dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


def plain_layer(layer: layers.Conv2D, **changes: Any) -> layers.Conv2D:
    """Returns a new built-in convolution with the settings of one that standardises, to be given `plain_weights`."""
    config = {**layer.get_config(), **changes}
    del config["epsilon"]
    return layers.Conv2D.from_config(config)


def plain_weights(layer: layers.Conv2D) -> list[np.ndarray]:
    """Returns kernel and, where there is one, bias of the built-in convolution that computes the same, float64."""
    kernel, *rest = (weight.astype(np.float64) for weight in layer.get_weights())
    deviation = np.sqrt(kernel.var(axis=(0, 1, 2)) + layer.epsilon)
    return [(kernel - kernel.mean(axis=(0, 1, 2))) / deviation, *rest]
