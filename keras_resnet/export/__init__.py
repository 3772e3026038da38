"""Trained networks as files for servers and phones, each checked against the network that it came from.

`from keras_resnet.export import export` is the call behind export.py, loaded on first use: it loads TensorFlow.
"""

import importlib

_PUBLIC = {
    "export": "keras_resnet.export.exporter",
    "ExportReport": "keras_resnet.export.exporter",
    "ExportSettings": "keras_resnet.export.formats",
    "FORMATS": "keras_resnet.export.formats",
    "export_saved_model": "keras_resnet.export.saved_model",
    "fold_batch_norms": "keras_resnet.graphs.folding",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
