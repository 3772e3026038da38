"""Where a classifier ends: what becomes of its logits, and whether a Dense layer computes them from pooled features."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from keras_resnet.errors import UserError

ACTIVATIONS = ("linear", "softmax", "sigmoid")
# Layers that hand their input on at inference.
INERT = (
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
)


@dataclass(frozen=True)
class Head:
    """The end of a classifier.

    Attributes:
        activation: What becomes of the logits: "linear" (nothing), "softmax" or "sigmoid".
        layer: The layer that applies it; with "linear" the one that computes the logits.
        dense: Name of the Dense layer that computes the logits from pooled features; None where it is another kind of
            head, or lies in an inner model.
        pooling: Name of the global average pooling in front of it.
    """

    activation: str
    layer: keras.Layer
    dense: str | None = None
    pooling: str | None = None

    @property
    def has_probabilities(self) -> bool:
        """Whether the model's output are probabilities already."""
        return self.activation != "linear"


def find_head(model: keras.Model) -> Head:
    """Finds the head of a classifier.

    Args:
        model: A functional or built Sequential model, inner models included.

    Returns:
        The head.

    Raises:
        UserError: The model ends in another activation than those of `ACTIVATIONS`.
    """
    node, activation, layer = _node(model.outputs[0]), "linear", None
    while True:
        operation = node.operation
        if isinstance(operation, keras.Model):
            # The layers of an inner model cannot be asked for by name in the outer one.
            inner = find_head(operation)
            return Head(inner.activation, inner.layer) if layer is None else Head(activation, layer)
        own = activation_of(operation)
        if own != "linear" and layer is None:
            activation, layer = own, operation
        if not isinstance(operation, (*INERT, layers.Softmax, layers.Activation)):
            break
        node = _node(node.input_tensors[0])
    layer = node.operation if layer is None else layer
    if not isinstance(node.operation, layers.Dense):
        return Head(activation, layer)
    dense, node = node.operation, _node(node.input_tensors[0])
    while isinstance(node.operation, INERT):
        node = _node(node.input_tensors[0])
    pooling = node.operation
    is_pooled = isinstance(pooling, layers.GlobalAveragePooling2D) and len(node.outputs[0].shape) == 2
    if not is_pooled or pooling.data_format != "channels_last":
        return Head(activation, layer)
    return Head(activation, layer, dense.name, pooling.name)


def activation_of(layer) -> str:
    """Returns the name of what a layer does to its output: "linear" for most.

    Raises:
        UserError: It is none of `ACTIVATIONS`.
    """
    if isinstance(layer, layers.Softmax):
        return "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if name not in ACTIVATIONS:
        raise UserError(
            f"The output layer {layer.name!r} ends in the activation {name!r}. A classification head returns logits, "
            "or their softmax or sigmoid."
        )
    return name


def check_classifier(model: keras.Model) -> Head:
    """Makes sure that a model takes images and returns scores for classes, and that its weights are numbers.

    Args:
        model: A functional or Sequential model.

    Returns:
        Its head.

    Raises:
        UserError: The model is not built, has several inputs or outputs or a graph that cannot be walked, takes no
            images, returns no scores for two or more classes, or holds NaN or infinity.
    """
    if not isinstance(model, keras.Model):
        raise UserError(f"A classifier is a Keras model, got {type(model).__name__}.")
    if not isinstance(model, keras.Sequential) and (getattr(model, "inputs", None) is None or not is_graph(model)):
        raise UserError(
            f"Model {model.name!r} is a subclass of keras.Model with a graph of its own, which cannot be walked. "
            "Build it as a functional or Sequential model."
        )
    if not model.built:
        raise UserError(f"Model {model.name!r} is not built. Give it an input shape, or call it on a batch first.")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(
            f"A classifier takes one input, the image, and has one output. Model {model.name!r} has "
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs."
        )
    taken, returned = tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    if len(taken) != 4:
        raise UserError(
            f"A classifier takes images (batch, height, width, channels). Model {model.name!r} takes {taken}."
        )
    if len(returned) != 2 or returned[1] is None or returned[1] < 2:
        raise UserError(
            f"Model {model.name!r} has no classification head: its output is {returned}, not (batch, classes) with at "
            "least two classes. Take the model with its top."
        )
    for variable in model.weights:
        # Summed in double precision: finite weights of any float kind cannot overflow it.
        if not np.isfinite(np.sum(np.asarray(variable), dtype=np.float64)):
            raise UserError(
                f"Model {model.name!r} holds NaN or infinity in {variable.path!r}: its training diverged, or the file "
                "was damaged. Take an earlier checkpoint."
            )
    return find_head(model)


def is_graph(model: keras.Model) -> bool:
    """Whether a model's layers can be walked; a subclass of keras.Model may do anything in its `call`."""
    # A Sequential model that was not built has no graph; a functional one always has its tensors.
    return isinstance(model, keras.Sequential) or (
        getattr(model, "inputs", None) is not None and hasattr(model, "operations")
    )


def _node(tensor):
    """The call that a tensor comes from. Keras publishes no way to ask; its tensors have kept it since 2.0."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]
