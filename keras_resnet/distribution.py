"""Where a network trains: devices, precision and XLA. The one place where hardware is decided.

One machine is covered: its CPU, one GPU, or several GPUs through tf.distribute.MirroredStrategy. Over several GPUs each
normalizes its own part of the batch, so the result is not bit for bit that of one GPU.
"""

import contextlib
import functools
import os
import platform
from pathlib import Path
from typing import Any

from keras_resnet.errors import UserError, unknown_name

DEVICES = ("auto", "cpu", "one_gpu", "all_gpus")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
XLA = ("auto", "on", "off")


def choose_kernels() -> None:
    """Has TensorFlow compute with oneDNN wherever the processor has AVX2, unless TF_ENABLE_ONEDNN_OPTS says otherwise.

    TensorFlow by itself does so only where there are instructions for neural networks (AVX-512 VNNI and later); without
    them ResNet-20 trained 1.8 times as fast with oneDNN as without. Must come before TensorFlow is imported.
    """
    if processor_has_avx2():
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


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


def keras_precision(precision: str) -> str:
    """Translates the precision of a training into a policy of Keras.

    Args:
        precision: One of `PRECISIONS`; "auto" is mixed_bfloat16 where every device has instructions for bfloat16, and
            float32 elsewhere, where it would be several times as slow.

    Returns:
        "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        UserError: The name is unknown.
    """
    import tensorflow as tf

    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    generations = [gpu.get("compute_capability", (0, 0)) for gpu in details]
    has_bfloat16 = min(generations) >= (8, 0) if generations else processor_has_bfloat16()
    return "mixed_bfloat16" if has_bfloat16 else "float32"


def processor_has_avx2() -> bool:
    """Whether this is an x86 processor with AVX2."""
    return platform.machine() in ("x86_64", "AMD64") and "avx2" in _processor_flags()


def processor_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; without, such a call takes several times as long."""
    return bool({"avx512_bf16", "amx_bf16"} & _processor_flags())


@functools.cache
def _processor_flags() -> frozenset[str]:
    """The names of the processor's instruction sets, as Linux lists them; none where there is no such list."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split())
    return frozenset()
