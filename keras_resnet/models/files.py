""".keras files read with all that our networks ask for: room for deep graphs, and the one layer that Keras lacks."""

import os

import keras

from keras_resnet.models.deep_graphs import deep_graphs
from keras_resnet.models.standardized import WeightStandardizedConv2D


def read_keras_file(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a network, not compiled, without running code that the file may hold."""
    known = {keras.saving.get_registered_name(WeightStandardizedConv2D): WeightStandardizedConv2D}
    # safe_mode refuses Lambda layers, whose code would run on loading.
    with deep_graphs():
        return keras.saving.load_model(path, custom_objects=known, compile=False, safe_mode=True)
