"""Where a network trains: devices, precision and XLA. The one place where hardware is decided.

One machine is covered: its CPU, one GPU, or several GPUs through tf.distribute.MirroredStrategy. Over several GPUs each
normalizes its own part of the batch, so the result is not bit for bit that of one GPU.
"""

import os
from typing import Any

from keras_resnet.errors import UserError, unknown_name

DEVICES = ("auto", "cpu", "one_gpu", "all_gpus")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
XLA = ("auto", "on", "off")


def require_tensorflow() -> None:
    """Makes sure that Keras runs on TensorFlow, before Keras is imported.

    Raises:
        UserError: The environment asks for another backend, or Keras was loaded with one.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow":
        import keras

        backend = keras.config.backend()
    if backend != "tensorflow":
        raise UserError(
            f"Keras must run on TensorFlow here, got the backend {backend!r}. Set KERAS_BACKEND=tensorflow."
        )


def create_strategy(devices: str) -> Any:
    """Chooses the devices.

    Args:
        devices: "auto" (every GPU there is, else the CPU), "cpu", "one_gpu" or "all_gpus".

    Returns:
        A tf.distribute.Strategy: models and optimizers are built in its scope.

    Raises:
        UserError: The name is unknown, or there is no GPU where one is asked for.
    """
    import tensorflow as tf

    if devices not in DEVICES:
        raise unknown_name("devices", devices, DEVICES)
    gpus = tf.config.list_logical_devices("GPU")
    if devices in ("one_gpu", "all_gpus") and not gpus:
        raise UserError(f"devices={devices!r} needs a GPU, and TensorFlow sees none. Use 'auto' or 'cpu'.")
    if devices == "cpu" or not gpus:
        return tf.distribute.OneDeviceStrategy("/cpu:0") if gpus else tf.distribute.get_strategy()
    if devices == "one_gpu" or len(gpus) == 1:
        return tf.distribute.OneDeviceStrategy("/gpu:0") if len(gpus) > 1 else tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy()


def is_chief(strategy: Any) -> bool:
    """Whether this process writes, locks and reports: the only one, or the first of several workers.

    Args:
        strategy: From `create_strategy`.
    """
    resolver = getattr(strategy, "cluster_resolver", None)
    kind = getattr(resolver, "task_type", None)
    return kind in (None, "", "chief") or (
        kind == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )


def jit_compile(xla: str, strategy: Any) -> bool | str:
    """Translates the XLA choice into `compile`'s argument.

    Args:
        xla: "auto" (Keras decides: on for one GPU, off on CPU and over several GPUs), "on" or "off".
        strategy: From `create_strategy`.

    Returns:
        "auto", True or False.

    Raises:
        UserError: The name is unknown, or XLA is forced over several GPUs, where it fails.
    """
    import tensorflow as tf

    if xla not in XLA:
        raise unknown_name("xla", xla, XLA)
    if xla == "on" and strategy.num_replicas_in_sync > 1:
        raise UserError("xla='on' does not work over several GPUs. Use 'auto', or devices='one_gpu'.")
    if xla == "auto":
        # Keras' "auto" turns XLA on when the model supports it; on a CPU that made training over twice as slow.
        return "auto" if tf.config.list_logical_devices("GPU") else False
    return xla == "on"
