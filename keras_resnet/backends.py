"""Keras' backends: TensorFlow and JAX. The one place where the one in use is asked for, and what differs is hidden.

Imports neither of them, nor Keras or NumPy: a wrong choice is answered before anything is loaded.
"""

import functools
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_resnet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

TENSORFLOW, JAX = BACKENDS = ("tensorflow", "jax")

Signature = Sequence[tuple[Sequence[int | None], str]]


def backend() -> str:
    """Returns the backend that Keras runs on, or will run on once it is imported."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        return keras.config.backend()
    return os.environ.get("KERAS_BACKEND") or _configured_backend()


def require_backend() -> None:
    """Makes sure that Keras runs on one of `BACKENDS`, before Keras is imported.

    Raises:
        UserError: The environment asks for another backend, Keras was loaded with one, or it is not installed.
    """
    name = backend()
    if name not in BACKENDS:
        raise UserError(
            f"Keras must run on TensorFlow or JAX here, got the backend {name!r}. Set KERAS_BACKEND=tensorflow or "
            "KERAS_BACKEND=jax."
        )
    if name == TENSORFLOW and not has_tensorflow():
        raise UserError(
            "Keras runs on TensorFlow where KERAS_BACKEND names no other backend, and TensorFlow is not installed. "
            "Set KERAS_BACKEND=jax, or install it: pip install tensorflow."
        )
    if name == JAX and not _is_installed("jax"):
        raise UserError("KERAS_BACKEND=jax needs JAX, which is not installed: pip install 'keras-resnet[jax]'.")


def require_tensorflow(what: str = "This") -> None:
    """Makes sure that Keras runs on TensorFlow, before Keras is imported.

    Args:
        what: What needs it, the subject of the sentence.

    Raises:
        UserError: It runs on another backend.
    """
    require_backend()
    if backend() != TENSORFLOW:
        raise UserError(
            f"{what} needs Keras on TensorFlow, got the backend {backend()!r}. Set KERAS_BACKEND=tensorflow."
        )


@functools.cache
def has_tensorflow() -> bool:
    """Whether TensorFlow is installed: beside JAX it feeds the training and reads exported files."""
    return _is_installed("tensorflow")


def compiled(function: Callable[..., Any], variables: Callable[[], Sequence[Any]], signature: Signature) -> Callable:
    """Compiles a function of tensors; at each call the present values of the variables count.

    Args:
        function: Tensors → a tensor or several, written with `keras.ops`.
        variables: () → the Keras variables that it reads.
        signature: (shape, dtype) of each argument; a side of None may vary. JAX compiles anew for every other shape.

    Returns:
        The function of arrays or tensors.
    """
    if backend() == TENSORFLOW:
        import tensorflow as tf

        return tf.function(
            function, input_signature=[tf.TensorSpec(shape, dtype) for shape, dtype in signature], autograph=False
        )
    import jax
    import keras

    @jax.jit
    def pure(values: list[Any], *arguments: Any) -> Any:
        # The weights are arguments: as constants they would be compiled in, and stay what they were.
        with keras.StatelessScope(state_mapping=list(zip(variables(), values, strict=True))):
            return function(*arguments)

    def call(*arguments: Any) -> Any:
        tensors = [
            keras.ops.convert_to_tensor(given, dtype) for given, (_, dtype) in zip(arguments, signature, strict=True)
        ]
        return pure([variable.value for variable in variables()], *tensors)

    return call


def gradient(function: Callable[[Any], Any], at: Any) -> Any:
    """Returns the gradient of a scalar function of one tensor, inside a compiled function or outside."""
    if backend() == TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            value = function(at)
        return tape.gradient(value, at)
    import jax

    return jax.grad(function)(at)


def as_array(values: Any) -> "np.ndarray":
    """Returns a tensor of any backend, or what NumPy takes, as an array."""
    import numpy as np

    return values.numpy() if hasattr(values, "numpy") else np.asarray(values)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _configured_backend() -> str:
    """What Keras' own file of settings names."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend", TENSORFLOW)
    except (OSError, ValueError, AttributeError):
        return TENSORFLOW
