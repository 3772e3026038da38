"""Where a network trains: devices, precision and XLA. The one place where hardware is decided.

One process trains on a CPU, one GPU, or several GPUs of one machine: through tf.distribute.MirroredStrategy on
TensorFlow and keras.distribution.DataParallel on JAX. Several processes (workers, see `workers`) train with one or more
devices each, on any number of machines: through tf.distribute.MultiWorkerMirroredStrategy or, again, DataParallel. Each
worker prepares its rows of every global batch. A step computes what one device would compute with the whole batch,
including batch normalization's statistics.
"""

import contextlib
import functools
import os
import platform
from pathlib import Path
from typing import Any

from keras_resnet.backends import JAX, backend, has_tensorflow
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.workers import Workers, join, join_on_tensorflow, place_in_environment

DEVICES = ("auto", "cpu", "one_gpu", "all_gpus")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "auto")
XLA = ("auto", "on", "off")


def choose_kernels() -> None:
    """Has TensorFlow compute with oneDNN wherever the processor has AVX2, unless TF_ENABLE_ONEDNN_OPTS says otherwise.

    TensorFlow by itself does so only where there are instructions for neural networks (AVX-512 VNNI and later); without
    them ResNet-20 trained 1.8 times as fast with oneDNN as without. Must come before TensorFlow is imported.
    """
    if processor_has_avx2():
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def create_strategy(devices: str, *, workers: bool = False) -> Any:
    """Chooses the devices.

    Args:
        devices: "auto" (every GPU there is, else the CPU), "cpu", "one_gpu" or "all_gpus".
        workers: Whether this is a training: only a training may use several workers or, on JAX, several devices.

    Returns:
        A tf.distribute.Strategy, `OneDevice` on JAX, or `Workers`: models and optimizers are built in its scope.

    Raises:
        UserError: The name is unknown, a GPU is asked for and there is none, several workers cannot join, or several
            workers or JAX devices are asked for something other than training.
    """
    if devices not in DEVICES:
        raise unknown_name("devices", devices, DEVICES)
    place = place_in_environment()
    count, source = place.workers, place.source
    if backend() == JAX:
        import jax

        if workers:
            count = join()
        elif count == 1:
            count, source = jax.process_count(), "jax.distributed"
    if count > 1 and not workers:
        raise UserError(
            f"Several workers can only train, and {source} names {count}: each would work alone, on all the data. "
            f"Start one process for this, without {source}."
        )
    if backend() == JAX:
        return _jax_workers(devices) if workers else _jax_device(devices)
    if count > 1:
        return _tensorflow_workers(devices)
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    if devices in ("one_gpu", "all_gpus") and not gpus:
        raise _no_gpu(devices, "TensorFlow")
    if devices == "cpu" or not gpus:
        return tf.distribute.OneDeviceStrategy("/cpu:0") if gpus else tf.distribute.get_strategy()
    if devices == "one_gpu" or len(gpus) == 1:
        return tf.distribute.OneDeviceStrategy("/gpu:0") if len(gpus) > 1 else tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy()


def _no_gpu(devices: str, engine: str) -> UserError:
    return UserError(f"devices={devices!r} needs a GPU, and {engine} sees none. Use 'auto' or 'cpu'.")


def _tensorflow_workers(devices: str) -> Workers:
    import tensorflow as tf

    # Nothing here may start the devices: the workers must join first.
    gpus = tf.config.list_physical_devices("GPU")
    if devices in ("one_gpu", "all_gpus") and not gpus:
        raise _no_gpu(devices, "TensorFlow")
    if devices in ("cpu", "one_gpu"):
        with contextlib.suppress(RuntimeError):  # already joined, with the devices chosen then
            tf.config.set_visible_devices(gpus[:1] if devices == "one_gpu" else [], "GPU")
    return join_on_tensorflow()


def _jax_workers(devices: str) -> "Workers | OneDevice":
    import jax
    import keras

    _hide_gpus_from_tensorflow()
    kinds = {device.platform for device in jax.devices()} - {"cpu"}
    if devices in ("one_gpu", "all_gpus") and not kinds:
        raise _no_gpu(devices, "JAX")
    found = jax.devices("cpu") if devices == "cpu" or not kinds else jax.devices()
    if devices == "one_gpu":
        first = {device.process_index: device for device in reversed(found)}
        found = [first[rank] for rank in range(jax.process_count())]
    if len(found) == 1:
        return _jax_device("one_gpu" if devices == "all_gpus" else devices)
    own = [device for device in found if device.process_index == jax.process_index()]
    jax.config.update("jax_default_device", own[0])
    names = [f"{device.platform}:{device.id}" for device in found]
    # Each worker brings its own rows of a batch.
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Workers(distribution, jax.process_index(), jax.process_count())


class OneDevice:
    """What a training asks of a strategy, for a device that everything is computed on anyway."""

    num_replicas_in_sync = 1

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context that changes nothing."""
        return contextlib.nullcontext()


def _jax_device(devices: str) -> OneDevice:
    import jax

    if devices == "all_gpus":
        raise UserError("On JAX, only training uses several devices, got devices='all_gpus'. Use 'auto' or 'one_gpu'.")
    gpus = _jax_gpus()
    if devices == "one_gpu" and not gpus:
        raise _no_gpu(devices, "JAX")
    device = gpus[0] if gpus and devices != "cpu" else jax.local_devices(backend="cpu")[0]
    jax.config.update("jax_default_device", device)
    _hide_gpus_from_tensorflow()
    return OneDevice()


def _hide_gpus_from_tensorflow() -> None:
    """It prepares batches on the processor; otherwise it would take most of the GPU's memory."""
    if has_tensorflow():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has begun to use its devices already
            tf.config.set_visible_devices([], "GPU")


def _jax_gpus() -> list[Any]:
    import jax

    return [device for device in jax.local_devices() if device.platform in ("gpu", "cuda", "rocm")]


def replicas() -> int:
    """Returns the number of devices that a loss is divided among, asked inside of a step.

    On JAX it is 1: a step there sees the whole batch, on however many devices its rows lie.
    """
    if backend() == JAX:
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gpu_names() -> list[str]:
    """Returns the names of the GPUs that the backend sees, one each."""
    if backend() == JAX:
        return [device.device_kind for device in _jax_gpus()]
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(device).get("device_name", "GPU") for device in devices]


def peak_gpu_memory() -> int | None:
    """Returns the most bytes that the backend held on the first GPU; None without one."""
    if backend() == JAX:
        gpus = _jax_gpus()
        return int((gpus[0].memory_stats() or {}).get("peak_bytes_in_use", 0)) if gpus else None
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return None
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])


def is_chief(strategy: Any) -> bool:
    """Whether this process writes, locks and reports: the only one, or the first of several workers.

    Args:
        strategy: From `create_strategy`.
    """
    return not isinstance(strategy, Workers) or strategy.rank == 0


def jit_compile(xla: str, strategy: Any) -> bool | str:
    """Translates the XLA choice into `compile`'s argument.

    Args:
        xla: "auto" (Keras decides: on for one GPU, off on CPU and on several devices; always on for JAX), "on" or
            "off".
        strategy: From `create_strategy`.

    Returns:
        "auto", True or False.

    Raises:
        UserError: The name is unknown, XLA is forced on several TensorFlow devices, where it fails, or it is switched
            off on JAX.
    """
    if xla not in XLA:
        raise unknown_name("xla", xla, XLA)
    if backend() == JAX:
        if xla == "off":
            raise UserError("xla='off' leaves JAX without a compiler: each operator would run alone. Use 'auto'.")
        return True
    import tensorflow as tf

    if strategy.num_replicas_in_sync > 1:
        if xla == "on":
            raise UserError("xla='on' does not work on several TensorFlow devices. Use 'auto', or one device.")
        return False
    if xla == "auto":
        # Keras' "auto" turns XLA on when the model supports it; on a CPU that made training over twice as slow.
        return "auto" if tf.config.list_logical_devices("GPU") else False
    return xla == "on"


def keras_precision(precision: str, devices: str = "auto") -> str:
    """Translates the precision of a training into a policy of Keras.

    Args:
        precision: One of `PRECISIONS`; "auto" is mixed_bfloat16 where every device has instructions for bfloat16, and
            float32 elsewhere, where it would be several times as slow.
        devices: One of `DEVICES`; with "cpu", GPUs are ignored.

    Returns:
        "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        UserError: The name is unknown.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    return automatic_precision(devices)[0] if precision == "auto" else precision


def automatic_precision(devices: str = "auto") -> tuple[str, str]:
    """Returns the Keras policy that the precision "auto" means on these devices, and the reason in words."""
    generations = [] if devices == "cpu" else _gpu_generations()
    if generations:
        lowest = min(generations)
        has_bfloat16, who = lowest >= (8, 0), f"GPU of compute capability {'.'.join(map(str, lowest))}"
    else:
        flags = sorted(_BFLOAT16_FLAGS & _processor_flags())
        has_bfloat16, who = bool(flags), f"processor ({', '.join(flags)})" if flags else "processor"
    if has_bfloat16:
        return "mixed_bfloat16", f"the {who} computes with bfloat16"
    return "float32", f"the {who} has no instructions for bfloat16"


def _gpu_generations() -> list[tuple[int, ...]]:
    """The compute capability of every GPU; (0, 0) where it has none."""
    if backend() == JAX:
        capabilities = [str(getattr(device, "compute_capability", "0.0")) for device in _jax_gpus()]
        return [tuple(int(part) for part in text.split(".") if part.isdigit()) for text in capabilities]
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [gpu.get("compute_capability", (0, 0)) for gpu in details]


def processor_has_avx2() -> bool:
    """Whether this is an x86 processor with AVX2."""
    return platform.machine() in ("x86_64", "AMD64") and "avx2" in _processor_flags()


def processor_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; without, such a call takes several times as long."""
    return bool(_BFLOAT16_FLAGS & _processor_flags())


@functools.cache
def _processor_flags() -> frozenset[str]:
    """The names of the processor's instruction sets, as Linux lists them; none where there is no such list."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split())
    return frozenset()
