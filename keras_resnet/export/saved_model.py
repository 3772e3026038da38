"""A SavedModel that serves images and needs nothing but TensorFlow.

The folder has TensorFlow Serving's layout, one numbered SavedModel below the model's name, with what a client needs
beside it: model.keras, labels.txt and preprocessing.json.
"""

import contextlib
import io
import os
from pathlib import Path

import keras
import tensorflow as tf

from keras_resnet.data.preprocessing import Preprocessing, normalize
from keras_resnet.storage import atomic_directory, save_model, write_json, write_text

VERSION = "1"


def export_saved_model(
    model: keras.Model,
    preprocessing: Preprocessing,
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a folder for serving.

    Args:
        model: A float32 network that returns logits.
        preprocessing: How an image becomes its input.
        directory: The folder, written as a whole or not at all.
        overwrite: Whether an existing folder may be replaced.

    Returns:
        The SavedModel inside the folder. Its signature "serving_default" takes "images", float32 [any, height, width,
        channels], 0..255, RGB, and returns "probabilities", float32 [any, classes].

    Raises:
        UserError: The folder exists and may not be replaced, or cannot be written.
    """
    shape = [None, preprocessing.height, preprocessing.width, preprocessing.channels]

    def serve(images):
        return {"probabilities": tf.nn.softmax(model(normalize(images, preprocessing), training=False))}

    with atomic_directory(directory, overwrite=overwrite) as folder:
        save_model(model, folder / "model.keras", preprocessing)
        # The endpoint alone brings the variables along; `track(model)` would write every one of them twice.
        archive = keras.export.ExportArchive()
        archive.add_endpoint("serve", serve, input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])
        with contextlib.redirect_stdout(io.StringIO()):  # `verbose=False` still prints the list of endpoints
            archive.write_out(os.fspath(folder / VERSION), verbose=False)
        write_text(folder / "labels.txt", "".join(f"{label}\n" for label in preprocessing.labels))
        write_json(folder / "preprocessing.json", preprocessing.to_dict())
    return Path(directory) / VERSION
