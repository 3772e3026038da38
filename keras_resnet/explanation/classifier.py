"""A classifier made ready for explanation: one flat float32 graph, its layers by name, its compiled functions.

What is compiled is kept with the model that it was compiled for, so that a second call traces nothing again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_resnet.backends import as_array, compiled
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.graphs.flattening import FlatClassifier, flatten_classifier
from keras_resnet.graphs.heads import INERT, find_head
from keras_resnet.models.deep_graphs import deep_graphs

FEATURES = "features"
PREDICTED = -1  # stands for "the class that the network predicts" among target numbers

_ATTRIBUTE = "_prepared_for_explanation"


class Classifier:
    """A flat float32 classifier with its compiled functions.

    Attributes:
        flat: The graph, see `keras_resnet.graphs.flattening`.
        model: `flat.model`, from network inputs to logits.
        classes: Number of classes.
    """

    def __init__(self, flat: FlatClassifier):
        self.flat = flat
        self.model = flat.model
        self.classes = flat.model.output_shape[-1]
        self._kept: dict[Any, Any] = {}

    def cached(self, key: Any, build: Callable[[], Any]) -> Any:
        """Returns what `build` made when it was first asked for under `key`."""
        if key not in self._kept:
            self._kept[key] = build()
        return self._kept[key]

    def traces(self) -> int:
        """Returns how often any of the compiled functions was traced so far."""
        kept = [function for function in self._kept.values() if hasattr(function, "experimental_get_tracing_count")]
        return sum(function.experimental_get_tracing_count() for function in kept)

    def compiled(self, function: Callable[..., Any], *signature: tuple[Any, str]) -> Callable[..., Any]:
        """Compiles a function of network inputs and of what the signature says, see `backends.compiled`."""
        images = ((None, *self.model.input_shape[1:]), "float32")
        return compiled(function, lambda: self.model.variables, [images, *signature])

    def logits(self, images: Any) -> Any:
        """Returns the logits [N, classes] of network inputs [N, H, W, C]."""

        def build():
            return self.compiled(lambda images: self.model(images, training=False))

        return self.cached("logits", build)(images)

    def probabilities(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        """Computes class probabilities.

        Args:
            images: Network inputs [N, H, W, C].
            batch_size: Images at a time.

        Returns:
            float32 [N, classes], 0..1: the softmax of the logits, or their sigmoid where the model ends in one.
        """
        squash = ops.sigmoid if self.flat.activation == "sigmoid" else ops.softmax

        def build():
            return self.compiled(lambda images: squash(self.model(images, training=False)))

        compute = self.cached("probabilities", build)
        images = np.asarray(images, np.float32)
        parts = [as_array(compute(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.classes), np.float32)

    def spatial_layers(self) -> list[str]:
        """Returns the names of the layers whose output is a map (batch, height, width, channels)."""
        return [layer.name for layer in self.model.layers if _is_spatial(layer)]

    def layer_name(self, name: str) -> str:
        """Returns the name of the layer that a user's name stands for.

        Args:
            name: A layer's name. "features" also stands for the last layer with a spatial output where the model has
                no layer of that name.

        Raises:
            UserError: There is no such layer, or its output has no spatial extent.
        """
        valid = self.spatial_layers()
        if name in valid:
            return name
        if name == FEATURES and valid:
            return valid[-1]
        shown = _shown_layers(valid)
        for layer in self.model.layers:
            if layer.name == name:
                shape = keras.tree.flatten(layer.output)[0].shape
                raise UserError(
                    f"A heat map needs a layer with height and width. The output of {name!r} is {tuple(shape)}. "
                    f"Valid: {shown}."
                )
        raise UserError(f"{str(unknown_name('layer', name, valid)).partition(' Valid:')[0]} Valid: {shown}.")

    def trunk(self, layer: str) -> keras.Model:
        """Returns the part up to a layer: images → [the layer's map, what else the tail needs …]."""
        return self.cached(("parts", layer), lambda: self._split(layer))[0]

    def tail(self, layer: str) -> keras.Model:
        """Returns the part behind a layer: what the trunk returned → logits."""
        return self.cached(("parts", layer), lambda: self._split(layer))[1]

    def _split(self, name: str) -> tuple[keras.Model, keras.Model]:
        cut = self.model.get_layer(name).output
        behind, beside = {id(cut)}, {}
        for operation in self.model.operations:
            if isinstance(operation, layers.InputLayer):
                continue
            sources = keras.tree.flatten(operation.input)
            if operation.name == name or not any(id(tensor) in behind for tensor in sources):
                continue
            # A shortcut around the layer reaches the tail, too.
            beside.update({id(tensor): tensor for tensor in sources if id(tensor) not in behind})
            behind.update(id(tensor) for tensor in keras.tree.flatten(operation.output))
        inputs = [cut, *beside.values()]
        with deep_graphs():
            return keras.Model(self.model.input, inputs), keras.Model(inputs, self.model.output)

    def closed_form_head(self, layer: str) -> layers.Dense | None:
        """Returns the dense layer where a layer's map goes through GAP → Dense to the logits and nothing else.

        Returns:
            The dense layer, or None where the head is another one.
        """
        head = find_head(self.model)
        if head.dense is None or head.activation != "linear":
            return None
        tensor = self.model.get_layer(head.pooling).input
        while True:
            operation = tensor._keras_history.operation
            if operation.name == layer:
                return self.model.get_layer(head.dense)
            if not isinstance(operation, INERT):
                return None
            tensor = operation.input


def prepare(model: keras.Model) -> Classifier:
    """Makes a model ready for explanation, once: a second call returns the same object with the present weights.

    Args:
        model: Any functional or Sequential classifier.

    Returns:
        The classifier.

    Raises:
        UserError: The model is not a classifier that can be used, see `flatten_classifier`.
    """
    classifier = getattr(model, _ATTRIBUTE, None)
    if classifier is None:
        classifier = Classifier(flatten_classifier(model))
        # Past Keras' own bookkeeping: the model must be saved and counted as before.
        object.__setattr__(model, _ATTRIBUTE, classifier)
    else:
        classifier.flat.copy_weights()
    return classifier


def resolve_targets(targets: Any, classes: int, count: int, labels: Sequence[str] = ()) -> np.ndarray:
    """Turns what a user names as targets into class numbers.

    Args:
        targets: None or "predicted" for the predicted class; a class number or label for all images; or a sequence of
            those, one per image.
        classes: Number of classes.
        count: Number of images.
        labels: The class names, when they are known.

    Returns:
        int32 [count], `PREDICTED` where the network decides.

    Raises:
        UserError: A class is unknown or out of range, or the number of targets is not the number of images.
    """
    if targets is None or isinstance(targets, str | int | np.integer):
        targets = [targets] * count
    targets = list(np.asarray(targets)) if hasattr(targets, "__array__") else list(targets)
    if len(targets) != count:
        raise UserError(f"One target per image, got {len(targets)} targets for {count} images.")
    return np.array([_class_number(target, classes, labels) for target in targets], np.int32).reshape(count)


def known_targets(targets, logits) -> Any:
    """Puts the predicted class in where a target is `PREDICTED`, inside a compiled function: int32 [N]."""
    return ops.where(targets == PREDICTED, ops.cast(ops.argmax(logits, axis=-1), "int32"), targets)


def _class_number(target: Any, classes: int, labels: Sequence[str]) -> int:
    if target is None or target == "predicted":
        return PREDICTED
    if isinstance(target, str) and target in labels:
        return labels.index(target)
    try:
        number = int(target)
    except (TypeError, ValueError):
        number = None
    if number is None or (not isinstance(target, str) and number != target):
        if labels:
            closest = str(unknown_name("class", target, labels)).partition(" Valid:")[0]
            raise UserError(f"{closest} Valid: {_shortened(labels)}.")
        raise UserError(
            f"Unknown class {str(target)!r}. The model brings no class names: give a number from 0 to {classes - 1}."
        )
    if not 0 <= number < classes:
        known = f" Valid: {_shortened(labels)}." if labels else ""
        raise UserError(f"Class {number} is out of range: the model has the classes 0 to {classes - 1}.{known}")
    return number


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def _shown_layers(valid: list[str]) -> str:
    """The layers that people draw on: blocks' outputs from the last on, or all of them where there are none."""
    blocks = [name for name in valid if name == FEATURES or name.endswith("_out")] or valid
    return _shortened(blocks[::-1])


def _is_spatial(layer) -> bool:
    outputs = keras.tree.flatten(layer.output)
    if isinstance(layer, layers.InputLayer) or len(outputs) != 1 or len(outputs[0].shape) != 4:
        return False
    height, width = outputs[0].shape[1:3]
    return (height is None or width is None) or height * width > 1
