"""ONNX and OpenVINO, for servers without TensorFlow, through Keras' own export."""

import contextlib
import gc
import logging
import os
import warnings
from pathlib import Path

import keras
import numpy as np


def write_interchange(network: keras.Model, name: str, path: Path) -> None:
    """Writes a network for another runtime.

    Args:
        network: As `serving_network` builds it.
        name: "onnx" or "openvino"; the package must be installed.
        path: The file to write, .onnx or .xml; OpenVINO's weights come to lie beside it.
    """
    shape = (1, *network.inputs[0].shape[1:])
    sample = [np.zeros(shape if len(x.shape) > 1 else (1,), x.dtype) for x in network.inputs]
    # Keras exports to ONNX what has been called before only.
    network({x.name: value for x, value in zip(network.inputs, sample, strict=True)} if len(sample) > 1 else sample[0])
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with _eager_garbage_collection(), warnings.catch_warnings():
        # About names of NumPy that Keras looks for; no business of who exports.
        warnings.simplefilter("ignore", FutureWarning)
        network.export(os.fspath(path), format=name, verbose=False)


@contextlib.contextmanager
def _eager_garbage_collection():
    """Collects cyclic garbage often inside the `with` block.

    tf2onnx drops a copy of the whole graph, weights included, at each of its passes, in reference cycles. Python waits
    with those until a quarter of all objects are new: 6 GB for ResNet-50.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what exists already does not count, and need not be looked at
    gc.collect()
    gc.set_threshold(before[0], 5, 2)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        gc.collect()
