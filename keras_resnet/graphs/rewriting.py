"""A Keras graph walked and rebuilt: what every change of a network's layers is written with."""

from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.errors import UserError
from keras_resnet.graphs.heads import INERT
from keras_resnet.models.deep_graphs import deep_graphs


class Graph:
    """Who reads what in a functional model.

    Keras publishes no way to ask who reads a tensor; its functional graph has kept its nodes, the calls of its layers,
    since 2.0.

    Args:
        model: A functional model.

    Attributes:
        nodes: The calls of the layers, each behind those it reads from.
    """

    def __init__(self, model: keras.Model):
        by_depth = model._nodes_by_depth
        self.nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
        self._outputs = {id(tensor) for tensor in model.outputs}
        self._calls: dict[Any, int] = {}
        self._readers: dict[int, list] = {}
        for node in self.nodes:
            self._calls[node.operation] = self._calls.get(node.operation, 0) + 1
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node)

    def readers(self, tensor: Any) -> list:
        """Returns the nodes that read a tensor."""
        return self._readers.get(id(tensor), [])

    def is_called_once(self, node: Any) -> bool:
        """Whether a node is the only call of its layer, and not one in training mode."""
        return self._calls[node.operation] == 1 and not node.arguments.kwargs.get("training")

    def only_reader(self, node: Any) -> Any:
        """Returns the one node that reads a node's output, inert layers skipped; None if there is not just one."""
        while True:
            tensor = node.outputs[0]
            found = self.readers(tensor)
            is_seen = id(tensor) in self._outputs
            if is_seen or len(found) != 1 or len(node.outputs) != 1 or len(found[0].input_tensors) != 1:
                return None
            node = found[0]
            if not isinstance(node.operation, INERT):
                return node


def functional(model: Any) -> keras.Model:
    """Returns a functional or Sequential model as a functional one.

    Raises:
        UserError: The model is neither, or not built.
    """
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs, name=model.name)
    # A subclass may do anything in `call`; only a functional graph has nodes.
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise UserError(
            f"A network must be a functional or a built Sequential Keras model, got {type(model).__name__}. "
            "Build it with keras.Model(inputs, outputs)."
        )
    return model


def rewrite(
    model: keras.Model,
    clone: Callable[[Any], Any],
    *,
    call: Callable[..., Any] | None = None,
    set_weights: Callable[[Any, Any], None] | None = None,
    input_dtype: str | None = None,
) -> keras.Model:
    """Builds a functional model anew, layer by layer.

    Args:
        model: The model. It is left as it is.
        clone: Layer → the one that takes its place.
        call: (new layer, *arguments) → its output; default: it is called.
        set_weights: (layer, new layer) → None: gives the new one its weights; default: the old one's.
        input_dtype: The dtype of floating-point inputs; default: as they are.

    Returns:
        The new model.
    """
    copies: dict[Any, Any] = {}

    def remember(layer):
        copies[layer] = clone(layer)
        return copies[layer]

    inputs = None
    if input_dtype is not None:
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=input_dtype if _is_float(x) else x.dtype, name=x.name)
            for x in model.inputs
        ]
        inputs = keras.tree.pack_sequence_as(model.input, inputs)
    with deep_graphs():
        rewritten = keras.models.clone_model(model, input_tensors=inputs, clone_function=remember, call_function=call)
    for old, new in copies.items():
        if isinstance(old, keras.Layer):
            (set_weights or _same_weights)(old, new)
    return rewritten


def copy_layer(layer: Any) -> Any:
    """Returns a new layer like another one, with weights of its own."""
    return type(layer).from_config(layer.get_config())


def _same_weights(old: keras.Layer, new: keras.Layer) -> None:
    if not isinstance(old, keras.Model):  # an inner model has been rewritten, weights included
        new.set_weights(old.get_weights())


def _is_float(value: Any) -> bool:
    return "float" in str(value.dtype)
