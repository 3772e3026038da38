"""Rebuilds any classifier as a flat float32 graph that returns logits: what heat maps and converters can take.

Transfer-learning models hold a network inside a network, Sequential models hide their graph, and networks trained
under a mixed precision policy compute in half precision. The rebuilt graph has every layer of the inner networks on
its own level, once, and computes in float32; it holds weights of its own, which `copy_weights` brings up to date.
"""

from dataclasses import dataclass

import keras
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.graphs.heads import check_classifier, is_graph
from keras_resnet.models.deep_graphs import deep_graphs


@dataclass(frozen=True)
class FlatClassifier:
    """A classifier as a flat float32 graph.

    Attributes:
        model: From float32 (batch, height, width, channels) to float32 logits (batch, classes).
        activation: What the original did with its logits: "linear" (nothing), "softmax" or "sigmoid".
        pairs: (layer of the original, layer of `model`) for each layer with weights; empty where `model` is the
            original itself.
    """

    model: keras.Model
    activation: str
    pairs: tuple[tuple[keras.Layer, keras.Layer], ...]

    def copy_weights(self) -> None:
        """Copies the original's present weights into `model`."""
        for original, copy in self.pairs:
            for source, target in zip(original.weights, copy.weights, strict=True):
                target.assign(source)


def flatten_classifier(model: keras.Model) -> FlatClassifier:
    """Rebuilds a classifier as a flat float32 graph that returns logits.

    A graph that is flat, float32 and ends in logits already is taken as it is, without a copy.

    Args:
        model: A functional or Sequential model, inner models included, with one input image and one output.

    Returns:
        The flat graph, its weights those of `model`.

    Raises:
        UserError: The model is not built, has several inputs or outputs, a graph that cannot be walked, or no
            classification head.
    """
    head = check_classifier(model)
    activation = head.activation
    if activation == "linear" and _is_flat_float32(model):
        return FlatClassifier(model, activation, ())
    pairs: list[tuple[keras.Layer, keras.Layer]] = []
    inputs = keras.Input(shape=model.input_shape[1:], dtype="float32", name="images")
    with deep_graphs():
        outputs = _rebuild(model, inputs, _Rebuilder(head.layer, pairs))
        flat = keras.Model(inputs, outputs, name=model.name)
    classifier = FlatClassifier(flat, activation, tuple(pairs))
    classifier.copy_weights()
    return classifier


def _last_operation(model: keras.Model):
    # An inner model's own output tensors are not those of the outer graph, so the history is asked, not `.output`.
    return model.outputs[0]._keras_history.operation


def _is_flat_float32(model: keras.Model) -> bool:
    if isinstance(model, keras.Sequential):
        return False
    return all(
        not isinstance(operation, keras.Model) and getattr(operation, "compute_dtype", "float32") == "float32"
        for operation in model.operations
        if not isinstance(operation, layers.InputLayer)
    )


class _Rebuilder:
    """Makes the new layers, and remembers which names are taken and whose copy a layer is."""

    def __init__(self, last, pairs: list):
        self.last = last
        self.pairs = pairs
        self.names: set[str] = set()
        self.copies: dict[int, keras.Layer] = {}

    def copy(self, layer, model_name: str):
        if isinstance(layer, keras.Model):
            return layer  # walked when it is called
        if id(layer) in self.copies:
            return self.copies[id(layer)]
        if layer is self.last and isinstance(layer, layers.Softmax | layers.Activation):
            config, kind = {}, layers.Identity
        else:
            config, kind = layer.get_config(), type(layer)
            if layer is self.last and "activation" in config:
                config["activation"] = "linear"
        name = layer.name if layer.name not in self.names else f"{model_name}_{layer.name}"
        while name in self.names:
            name += "_"
        self.names.add(name)
        precision = {"dtype": "float32"} if isinstance(layer, keras.Layer) else {}
        copy = kind.from_config({**config, "name": name, **precision})
        self.copies[id(layer)] = copy
        if getattr(layer, "weights", None):
            self.pairs.append((layer, copy))
        return copy


def _rebuild(model: keras.Model, tensor, rebuilder: _Rebuilder):
    """Applies copies of a model's layers to a tensor and returns the output tensor."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            if not isinstance(layer, layers.InputLayer):
                tensor = _call(rebuilder.copy(layer, model.name), rebuilder, tensor)
        return tensor
    if not is_graph(model) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UserError(f"The inner model {model.name!r} has no graph from one input to one output to be walked.")
    outputs = {}

    def call(copy, *args, **kwargs):
        outputs[id(copy)] = _call(copy, rebuilder, *args, **kwargs)
        return outputs[id(copy)]

    # clone_model walks the graph. The model it returns is not used: on an intermediate tensor it stands on a copy of
    # the graph, so the output is taken where it was computed.
    keras.models.clone_model(
        model,
        input_tensors=keras.tree.pack_sequence_as(model.input, [tensor]),
        clone_function=lambda layer: rebuilder.copy(layer, model.name),
        call_function=call,
    )
    return keras.tree.flatten(outputs[id(rebuilder.copy(_last_operation(model), model.name))])[0]


def _call(layer, rebuilder: _Rebuilder, *args, **kwargs):
    if isinstance(layer, keras.Model):
        return _rebuild(layer, keras.tree.flatten(args)[0], rebuilder)
    if isinstance(layer, layers.Identity):
        return layer(*args)  # one that stands for a Softmax is called with that one's mask
    return layer(*args, **kwargs)
