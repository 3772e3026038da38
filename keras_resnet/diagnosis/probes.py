"""TensorFlow, Keras and the hardware tried out, and a short training. Each function runs in `worker`'s process."""

import contextlib
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from keras_resnet.backends import BACKENDS, JAX, backend, require_backend
from keras_resnet.diagnosis.findings import NOTE, OK, PROBLEM, Finding
from keras_resnet.diagnosis.probing import LOG_VARIABLE
from keras_resnet.diagnosis.requirements import requirements
from keras_resnet.diagnosis.surroundings import driver_gpus
from keras_resnet.distribution import keras_precision, processor_has_avx2
from keras_resnet.provenance import hardware

TIMED_STEPS = 9
EPOCHS = 2
# From here on the input, which works beside the network, may keep it waiting.
LARGE_SHARE = 0.5


def try_backend() -> Finding:
    """Looks for another backend in the environment and in Keras' file, before TensorFlow imports Keras with it."""
    asked, place = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    if not asked and file.is_file():
        with contextlib.suppress(ValueError, AttributeError):  # Keras takes no notice of a damaged one, either
            asked, place = json.loads(file.read_text(encoding="utf-8")).get("backend"), str(file)
    if asked and asked not in BACKENDS:
        return Finding(PROBLEM, f"{place} asks for {asked!r}", "Set KERAS_BACKEND=tensorflow.", stops_training=True)
    if asked == JAX:
        return Finding(NOTE, f"{place} asks for jax", "Set KERAS_BACKEND=tensorflow for exports.")
    return Finding(OK, "tensorflow")


def try_tensorflow() -> Finding:
    """Imports TensorFlow and multiplies two matrices."""
    import tensorflow as tf

    ones = tf.ones((64, 64))
    total = float(tf.reduce_sum(tf.matmul(ones, ones)))
    if total != 64**3:
        return Finding(PROBLEM, f"a product of ones sums to {total}, not to {64**3}", stops_training=True)
    return Finding(OK, f"{tf.__version__} computes")


def try_keras() -> Finding:
    """Imports Keras as a training does."""
    version = importlib.metadata.version("keras")
    if version.partition(".")[0] != "3":
        needed = requirements().of("keras")
        advice = f'pip install "{needed}"'
        return Finding(PROBLEM, f"Keras {version}; networks are built with Keras 3", advice, stops_training=True)
    require_backend()
    return Finding(OK, f"{version} on {backend()}")


def try_devices() -> Finding:
    """Computes on every GPU that TensorFlow sees, and asks the driver whether there are others."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    known = driver_gpus()
    if gpus:
        for number in range(len(gpus)):
            with tf.device(f"/GPU:{number}"):
                tf.linalg.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
        missing = len(known) - len(gpus)
        if missing > 0 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            advice = "Look into the log of a training with TF_CPP_MIN_LOG_LEVEL=0."
            return Finding(NOTE, f"{hardware()}; the driver knows {missing} more GPUs", advice)
        return Finding(OK, hardware())
    if not known:
        return Finding(OK, f"{hardware()}; no GPU")
    shown = f"the driver knows {', '.join(known)}; TensorFlow sees no GPU, and trains on the processor"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding(NOTE, f"{shown}: CUDA_VISIBLE_DEVICES={hidden!r} hides it", "Unset CUDA_VISIBLE_DEVICES.")
    reasons = [line.rpartition("] ")[2] for line in _log().splitlines() if "dlopen" in line or "CUDA_ERROR" in line]
    said = f" ({reasons[-1][:200]})" if reasons else ""
    specifier = requirements().of("tensorflow").specifier
    return Finding(PROBLEM, shown + said, f'pip install "tensorflow[and-cuda]{specifier}"')


def try_onednn() -> Finding:
    """Reads from TensorFlow's own log whether it computes with oneDNN."""
    import tensorflow  # noqa: F401  (it says so when it is imported)

    chosen = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    setting = "" if chosen is None else f" (TF_ENABLE_ONEDNN_OPTS={chosen})"
    if "oneDNN custom operations are on" in _log():
        return Finding(OK, f"on{setting}")
    if processor_has_avx2():
        advice = "Unset TF_ENABLE_ONEDNN_OPTS: ResNet-20 trained 1.8 times as fast with oneDNN."
        return Finding(NOTE, f"off{setting}", advice)
    return Finding(OK, f"off{setting}; this processor has no AVX2, for which it is made")


def try_xla() -> Finding:
    """Compiles a convolution's step with XLA and times it beside the step without."""
    ratio = _step_seconds("float32", jit=True) / _step_seconds("float32", jit=False)
    found = f"works; a convolution's step took {ratio:.1f} × the time of one without"
    if ratio <= 1:
        return Finding(OK, found)
    return Finding(OK, found, "Leave --xla at auto, which is off on processors.")


def try_bfloat16() -> Finding:
    """Times a convolution's step in bfloat16 beside float32."""
    ratio = _step_seconds("bfloat16", jit=False) / _step_seconds("float32", jit=False)
    chosen = keras_precision("auto")
    has_it = "" if chosen != "float32" else ", for want of instructions"
    found = f"a convolution's step took {ratio:.1f} × the time of float32; --precision auto means {chosen}{has_it}"
    if ratio > 1 and chosen != "float32":
        return Finding(NOTE, found, "Compare both by train.py --dry-run before a long training.")
    return Finding(OK, found)


def try_default_training() -> Finding:
    """Trains the default recipe for two epochs, up to the SavedModel, in a temporary folder; times its input alone."""
    from keras_resnet.data.batches import training_batches
    from keras_resnet.data.sources import load_source
    from keras_resnet.storage import load_model
    from keras_resnet.training.recipes import Recipe
    from keras_resnet.training.records import read_record
    from keras_resnet.training.timing import measure_input
    from keras_resnet.training.trainer import train

    recipe = Recipe(epochs=EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = train(
            recipe,
            runs=Path(folder) / "runs",
            saved_models=Path(folder) / "saved_models",
            report=lambda line: None,
            report_page=False,
        )
        seconds = time.perf_counter() - began
        record = read_record(result.path)
        _, preprocessing = load_model(record.run.model)
    rate = record.column("images_per_second")[-1]
    data = load_source(recipe.dataset)
    batches = training_batches(
        data.train,
        preprocessing,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        epochs=100,
        augmentation=data.augmentation,
    )
    share = rate / measure_input(batches, seconds=0.5)
    found = (
        f"{EPOCHS} epochs of {recipe.model} on {recipe.dataset} in {seconds:.0f} s, {rate:,.0f} images/s; "
        f"the input alone takes {share:.1%} of a step's time"
    )
    if share > LARGE_SHARE:
        advice = "Close other programs: the input works on the processor beside the network."
        return Finding(NOTE, found, advice)
    return Finding(OK, found)


def _step_seconds(dtype: str, *, jit: bool) -> float:
    """Median time of a convolution with its gradient, where TensorFlow puts it."""
    import tensorflow as tf

    images = tf.cast(tf.random.stateless_uniform((64, 32, 32, 16), (0, 1)), dtype)
    kernel = tf.cast(tf.random.stateless_uniform((3, 3, 16, 16), (0, 1)), dtype)

    @tf.function(jit_compile=jit)
    def step(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")))
        return tape.gradient(loss, kernel)

    step(images, kernel).numpy()  # traces and compiles
    times = []
    for _ in range(TIMED_STEPS):
        began = time.perf_counter()
        step(images, kernel).numpy()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _log() -> str:
    path = os.environ.get(LOG_VARIABLE)
    return Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
