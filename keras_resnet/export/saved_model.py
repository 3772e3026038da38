"""A SavedModel that serves images and needs nothing but TensorFlow.

The folder has TensorFlow Serving's layout, one numbered SavedModel below the model's name, with what a client needs
beside it: model.keras, labels.txt and preprocessing.json.

All signatures call one function, and its weights are stored once: Keras' own export stores every weight twice.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.artifact import class_names
from keras_resnet.data.decoding import decode_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.transforms import resize_image
from keras_resnet.export.formats import SAVED_MODEL_VERSION
from keras_resnet.export.serving import check_exportable, class_activation, serving_network
from keras_resnet.models.config import ResNetConfig
from keras_resnet.storage import atomic_directory, save_model, write_json, write_text

TOP = 5
# Weights above this stay variables: loading ResNet-50's 102 MB as constants takes 2.5 GB, as variables 0.9 GB.
CONSTANT_BYTES = 128 * 2**20


# AutoGraph has nothing to do in these functions, and rewriting them takes longer than tracing them.
_graph = functools.partial(tf.function, autograph=False)


def export_saved_model(
    model: keras.Model,
    preprocessing: Preprocessing,
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    config: ResNetConfig | None = None,
) -> Path:
    """Writes a model as a folder for serving.

    Args:
        model: A classifier that returns logits or probabilities.
        preprocessing: How an image becomes its input.
        directory: The folder, written as a whole or not at all.
        overwrite: Whether an existing folder may be replaced.
        config: What the network was built from; the folder's model.keras holds it.

    Returns:
        The SavedModel inside the folder, with the signatures of `write_saved_model`.

    Raises:
        UserError: The model is not a classifier, or the folder exists and may not be replaced, or cannot be written.
    """
    with atomic_directory(directory, overwrite=overwrite) as folder:
        write_saved_model(model, preprocessing, folder / SAVED_MODEL_VERSION)
        save_model(model, folder / "model.keras", preprocessing, config)
        write_text(
            folder / "labels.txt",
            "".join(f"{label}\n" for label in class_names(preprocessing, model.outputs[0].shape[-1])),
        )
        write_json(folder / "preprocessing.json", preprocessing.to_dict())
    return Path(directory) / SAVED_MODEL_VERSION


def write_saved_model(
    model: keras.Model,
    preprocessing: Preprocessing,
    path: str | os.PathLike[str],
    *,
    with_heatmap: bool = False,
    precision: str = "float32",
) -> None:
    """Writes a SavedModel with these signatures, all for any batch size:

        serving_default     images: float32 (batch, height, width, channels) at the network's size, 0..255, RGB
        serve_uint8         images: uint8 (batch, height, width, channels), any one size
        serve_bytes         images: string (batch,), JPEG, PNG, GIF, BMP or WebP files
        explain_bytes       the same, with the heat map of the most probable class
        explain_class_bytes the same, and target: int32 (batch,), the class to explain; -1: the most probable one

    Each returns `probabilities`, float32 (batch, classes), and of the five best classes (or as many as there are)
    `labels`, string, and `scores`, float32, both (batch, 5), best first. The explaining ones return `heatmap`, too;
    they are left out where the network does not end in global average pooling and one Dense layer.

    Args:
        model: A classifier that returns logits or probabilities.
        preprocessing: How an image becomes its input.
        path: The folder to write, directly.
        with_heatmap: Whether the other signatures return the heat map as well.
        precision: "float32", or "bfloat16" for the feature maps, see `serving_network`; what goes in and comes out is
            float32 in both.

    Raises:
        UserError: The model is not a classifier.
    """
    can_explain = check_exportable(model, preprocessing).dense is not None
    heatmap = "parts" if can_explain or with_heatmap else "none"
    network = serving_network(model, preprocessing, heatmap=heatmap, precision=precision)
    kernels = _variables_of(network)
    names = class_names(preprocessing, model.outputs[0].shape[-1])
    served = _Served(_shared_function(network, kernels), preprocessing, names, explains=with_heatmap)
    module = tf.Module()
    module.kernels = kernels
    tf.saved_model.save(module, os.fspath(path), signatures=served.signatures(can_explain=can_explain))
    # The folder that TensorFlow keeps for files of others.
    write_json(Path(path) / "assets.extra" / "preprocessing.json", preprocessing.to_dict())


class _Served:
    """What the signatures compute.

    Shapes are left open in the signatures: with them written there TensorFlow takes them for granted, and a wrong one
    runs into nonsense or nothing instead of a sentence.

    Args:
        core: float32 images [n, height, width, channels], 0..255 → the network's outputs.
        preprocessing: How an image becomes the network's input.
        names: The class names.
        explains: Whether the signatures that do not say so return the heat map, too.
    """

    def __init__(self, core: Callable, preprocessing: Preprocessing, names: tuple[str, ...], *, explains: bool):
        self._core, self._preprocessing, self._explains = core, preprocessing, explains
        self._labels, self._top = tf.constant(names), min(TOP, len(names))
        self._size = [preprocessing.height, preprocessing.width, preprocessing.channels]
        # A function of its own is traced and stored once for all signatures.
        self._decode = _graph(self._decode_files, input_signature=[tf.TensorSpec([None], tf.string)])

    def signatures(self, *, can_explain: bool) -> dict[str, Any]:
        """Returns name → traced function."""
        open_images = [None, None, None, None]
        files = tf.TensorSpec([None], tf.string, name="images")
        found = {
            "serving_default": (self._serve, [tf.TensorSpec(open_images, tf.float32, name="images")]),
            "serve_uint8": (self._serve_uint8, [tf.TensorSpec(open_images, tf.uint8, name="images")]),
            "serve_bytes": (lambda images: self._answer(self._decode(images)), [files]),
        }
        if can_explain:
            target = tf.TensorSpec([None], tf.int32, name="target")
            found["explain_bytes"] = (lambda images: self._answer(self._decode(images), explain=True), [files])
            found["explain_class_bytes"] = (self._explain_class, [files, target])
        return {name: _graph(function).get_concrete_function(*specs) for name, (function, specs) in found.items()}

    def _answer(self, images, target=None, explain: bool = False) -> dict[str, tf.Tensor]:
        outputs = self._core(images)
        scores, best = tf.math.top_k(outputs["probabilities"], self._top)
        result = {"probabilities": outputs["probabilities"], "labels": tf.gather(self._labels, best), "scores": scores}
        if explain or self._explains:
            shown = best[:, 0] if target is None else tf.where(target < 0, best[:, 0], target)
            result["heatmap"] = class_activation(outputs["features"], outputs["kernel"], shown)
        return result

    def _decode_files(self, files) -> tf.Tensor:
        return tf.map_fn(
            lambda contents: resize_image(decode_image(contents, self._size[-1]), self._preprocessing),
            files,
            fn_output_signature=tf.TensorSpec(self._size, tf.float32),
        )

    def _serve(self, images):
        height, width, channels = self._size
        right = tf.reduce_all(tf.equal(tf.shape(images)[1:], self._size))
        message = f"serving_default takes images of shape (batch, {height}, {width}, {channels}), got"
        finite = tf.reduce_all(tf.math.is_finite(images))
        checks = [
            tf.debugging.Assert(right, [message, tf.shape(images)]),
            # A rectified NaN is 0: without this the network would answer with usual probabilities.
            tf.debugging.Assert(finite, ["serving_default takes finite pixels, 0..255, got NaN or infinity."]),
        ]
        with tf.control_dependencies(checks):
            images = tf.identity(images)
        return self._answer(tf.ensure_shape(images, [None, *self._size]))

    def _serve_uint8(self, images):
        channels = self._size[-1]
        message = f"serve_uint8 takes images of shape (batch, any height, any width, {channels}), got"
        right = tf.logical_and(tf.equal(tf.shape(images)[-1], channels), tf.reduce_all(tf.shape(images)[1:] > 0))
        with tf.control_dependencies([tf.debugging.Assert(right, [message, tf.shape(images)])]):
            images = tf.identity(images)
        return self._answer(resize_image(tf.ensure_shape(images, [None, None, None, channels]), self._preprocessing))

    def _explain_class(self, images, target):
        classes = len(self._labels)
        message = f"target holds one class per file: 0..{classes - 1}, or -1 for the most probable one, got"
        right = tf.logical_and(
            tf.equal(tf.size(target), tf.size(images)),
            tf.reduce_all(tf.logical_and(target >= -1, target < classes)),
        )
        with tf.control_dependencies([tf.debugging.Assert(right, [message, target])]):
            target = tf.identity(target)
        return self._answer(self._decode(images), target, explain=True)


def _shared_function(network: keras.Model, kernels: list):
    """The network as one TensorFlow function, traced and stored once for all signatures.

    What is not among `kernels`, which stay variables, lies in it as constants.
    """
    kept = {id(kernel) for kernel in kernels}
    values = [(variable, variable.numpy()) for variable in network.variables if id(variable) not in kept]

    @_graph(input_signature=[tf.TensorSpec(network.inputs[0].shape, tf.float32, name="images")])
    def run(images):
        # Made inside: a large tensor from outside would be handed in at every call, like a variable.
        constants = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=constants):
            return network(images, training=False)

    return run


def _variables_of(network: keras.Model) -> list:
    """The weights that the SavedModel keeps as variables: none, or the kernels of a large network.

    Of constants oneDNN rearranges a convolution's weights once, of variables at every call: ResNet-50 is 1.15 times as
    fast at batch 1, ResNet-20 1.06 times at batch 32. But TensorFlow copies constants again and again while it loads
    and optimises the graph.
    """
    kernels = [variable for variable in network.variables if len(variable.shape) >= 2]
    size = sum(variable.numpy().nbytes for variable in kernels)
    return kernels if size > CONSTANT_BYTES else []
