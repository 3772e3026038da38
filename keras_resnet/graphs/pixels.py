"""A network's normalisation put inside it, so that it takes pixels."""

import keras
import numpy as np
from keras import layers

from keras_resnet.graphs.rewriting import Graph, copy_layer, functional, rewrite
from keras_resnet.models.deep_graphs import deep_graphs


def fold_pixels(
    model: keras.Model, *, mean, std, reverse_channels: bool = False, shape: tuple[int, int, int] | None = None
) -> keras.Model:
    """Puts a network's normalisation inside: the new network takes pixels from 0 to 255.

    Where the network begins with a convolution, dividing by the deviation and reversing the channels are folded into
    its kernel. Subtracting the mean stays an operator of its own, because the convolution's border is padded with
    zeros, which must keep meaning the mean colour.

    Args:
        model: A functional model of one image input, (x / 255 − mean) / std.
        mean: Mean of each channel in the network's channel order, for pixels scaled to 0..1.
        std: Standard deviation of each channel, likewise.
        reverse_channels: Whether the network's channel order is the reverse of the images'.
        shape: (height, width, channels) of the new input; default: the network's own, which may be open.

    Returns:
        A new functional model from float32 `images` (batch, height, width, channels) in 0..255 to the same outputs.

    Raises:
        UserError: If the model is neither functional nor Sequential.
    """
    model = functional(model)
    mean, std = 255 * np.asarray(mean, np.float64), 255 * np.asarray(std, np.float64)
    conv = _first_convolution(model)
    images = keras.Input(shape or model.inputs[0].shape[1:], dtype="float32", name="images")
    if conv is None:
        x = keras.ops.flip(images, axis=-1) if reverse_channels else images
        x = (x - mean.astype(np.float32)) * (1 / std).astype(np.float32)
    else:
        mean = (mean[::-1] if reverse_channels else mean).astype(np.float32)
        width = images.shape[2]
        # For a whole row of pixels: broadcasting three numbers is slow everywhere.
        x = images - (mean if width is None else np.tile(mean, (width, 1)))

    def set_weights(old, new):
        weights = old.get_weights()
        if old is conv:
            kernel = weights[0].astype(np.float64) / std[:, np.newaxis]
            weights[0] = kernel[:, :, ::-1] if reverse_channels else kernel
        new.set_weights(weights)

    outputs = rewrite(model, copy_layer, set_weights=set_weights)(x)
    with deep_graphs():
        return keras.Model(images, outputs, name=model.name)


def _first_convolution(model: keras.Model):
    """The convolution that alone reads the model's input, borders of zeros skipped; None if it begins otherwise."""
    graph = Graph(model)
    tensor = model.inputs[0]
    while True:
        readers = graph.readers(tensor)
        if len(readers) != 1:
            return None
        layer = readers[0].operation
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            return None
        if type(layer) is layers.Conv2D and graph.is_called_once(readers[0]) and layer.groups == 1:
            return layer
        if not isinstance(layer, layers.ZeroPadding2D):
            return None
        tensor = readers[0].outputs[0]
