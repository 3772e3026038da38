"""The known pitfalls of this stack, each tried on what is installed here. Each function runs in `worker`'s process.

All were met with TensorFlow 2.21, Keras 3.15 and tf-keras-vis 0.8.7. The project itself goes round them; they wait in
a user's own code, or in an installation that lacks something.
"""

import importlib
import importlib.util
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.archives import megabytes
from keras_resnet.diagnosis.findings import NOTE, OK, PROBLEM, Finding

RAGGED_EPOCHS = 10


def try_tensorboard() -> Finding:
    """Writes a number for TensorBoard, as every training does."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        with writer.as_default():
            tf.summary.scalar("loss", 1.0, step=0)
        writer.close()
        files = list(Path(folder).iterdir())
    if not files:
        return Finding(PROBLEM, "no log file was written", stops_training=True)
    return Finding(OK, "a log file was written")


def try_tf_keras() -> Finding:
    """Looks whether `tf.keras` is the Keras that this project builds with."""
    import keras
    import tensorflow as tf

    if tf.keras.layers.Layer is keras.layers.Layer:
        return Finding(OK, f"the same as keras {keras.__version__}")
    advice = "Unset TF_USE_LEGACY_KERAS, and write `import keras` instead of tf.keras."
    return Finding(NOTE, f"another Keras ({tf.keras.__version__}), whose layers do not mix with ours", advice)


def try_tf_keras_vis() -> Finding:
    """Draws a heat map with tf-keras-vis, which a release of SciPy or Keras can break."""
    from keras_resnet import create_model, explain

    model = create_model("resnet8", num_classes=3, input_shape=(16, 16, 1))
    images = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    maps = explain(model, images, method="layercam")
    if maps.shape != (2, 16, 16) or not np.isfinite(maps).all():
        return Finding(PROBLEM, f"its heat maps have the shape {maps.shape}, or are not finite")
    return Finding(OK, "draws heat maps")


def try_tensorflow_datasets() -> Finding:
    """Prepares a data set of three examples and reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

    class Three(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Three numbers."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"number": np.int64}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(3):
                yield number, {"number": number}

    with tempfile.TemporaryDirectory() as folder:
        builder = Three(data_dir=folder)
        builder.download_and_prepare()
        found = sorted(int(row["number"]) for row in builder.as_dataset(split="train"))
    if found != [0, 1, 2]:
        return Finding(PROBLEM, f"a data set of 0, 1, 2 was read as {found}")
    return Finding(OK, "prepares a data set and reads it")


def try_keras_export() -> Finding:
    """Measures how large a SavedModel `model.export` writes."""
    model = _dense_network()
    needed = 4 * model.count_params()
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    if written < 1.5 * needed:
        return Finding(OK, f"{megabytes(written)} for {megabytes(needed)} of weights")
    found = f"writes {megabytes(written)} for {megabytes(needed)} of weights: each of them {written / needed:.1f} times"
    return Finding(NOTE, found)


def try_concrete_functions() -> Finding:
    """Converts a concrete function to .tflite and looks whether the weights came along."""
    import tensorflow as tf

    model = _dense_network()
    call = tf.function(model).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]), tf.float32))
    needed, written = (
        4 * model.count_params(),
        len(tf.lite.TFLiteConverter.from_concrete_functions([call], model).convert()),
    )
    if written >= needed:
        return Finding(OK, f"{megabytes(written)} for {megabytes(needed)} of weights")
    return Finding(NOTE, f"writes {written / 1e3:.0f} kB for {megabytes(needed)} of weights: they are lost")


def try_mixed_litert() -> Finding:
    """Exports a mixed_float16 network with `model.export(format="litert")` and runs the file."""
    import keras
    from ai_edge_litert.interpreter import Interpreter

    policy = keras.DTypePolicy("mixed_float16")
    inputs = keras.Input((8, 8, 3), batch_size=1)
    outputs = keras.layers.Conv2D(4, 3, dtype=policy)(inputs)
    outputs = keras.layers.BatchNormalization(dtype=policy)(outputs)
    outputs = keras.layers.GlobalAveragePooling2D(dtype=policy)(outputs)
    model = keras.Model(inputs, outputs)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.tflite")
        model.export(file, format="litert", verbose=False)
        interpreter = Interpreter(model_path=file)
        try:
            interpreter.allocate_tensors()
            (entry,) = interpreter.get_input_details()
            interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
            interpreter.invoke()
        except RuntimeError as error:
            found = "a mixed_float16 network exports, and its file does not run"
            return Finding(NOTE, f"{found}: {_first_sentence(error)}")
    return Finding(OK, "the file of a mixed_float16 network runs")


def try_animated_webp() -> Finding:
    """Has TensorFlow decode an animated WebP file, which may write past the end of its memory."""
    import tensorflow as tf
    from PIL import Image

    from keras_resnet.data.decoding import decode_image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    first, second = (Image.fromarray(frame) for frame in pixels)
    file = io.BytesIO()
    first.save(file, "WEBP", save_all=True, append_images=[second], lossless=True)
    contents = tf.constant(file.getvalue())
    try:
        decode_image(contents, 3)
    except tf.errors.InvalidArgumentError:
        refused = "this project refuses such files"
    else:
        return Finding(PROBLEM, "this project's decoder took it, which it must not")
    decoded = tf.io.decode_image(contents, channels=0, expand_animations=False).numpy()
    if decoded.shape == pixels[0].shape and (decoded == pixels[0]).all():
        return Finding(OK, f"decoded right; {refused}")
    return Finding(NOTE, f"TensorFlow decodes wrong pixels; {refused}")


def try_ragged_batches() -> Finding:
    """Trains on 27 images in batches of 16, so that 11 are left for each epoch's last."""
    import keras

    from keras_resnet import create_model

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images, labels = random.random((27, 32, 32, 3), np.float32), random.integers(0, 10, 27)
    model = create_model("resnet8", num_classes=10, input_shape=(32, 32, 3))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(images, labels, batch_size=16, epochs=RAGGED_EPOCHS, verbose=0)
    if not np.isfinite(history.history["loss"]).all():
        return Finding(NOTE, "the loss of a training with a smaller last batch is not finite")
    return Finding(OK, f"{RAGGED_EPOCHS} epochs of batches of 16 and 11 images went well, in this one try")


def try_triton() -> Finding:
    """Imports triton behind TensorFlow, as PyTorch's optimizers and compiler do."""
    if importlib.util.find_spec("triton") is None:
        return Finding(OK, "not installed")
    importlib.import_module("tensorflow")
    importlib.import_module("triton")
    return Finding(OK, "can be imported behind TensorFlow")


def _dense_network() -> Any:
    """A network of a million weights, 4 MB."""
    import keras

    inputs = keras.Input((1024,))
    return keras.Model(inputs, keras.layers.Dense(1024)(inputs))


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition(". ")[0]
