"""Residual networks for Keras 3 and TensorFlow: train, evaluate, explain, export.

The public names are loaded on first use, so that importing the package (and asking a script for `--help`) does not
import TensorFlow.
"""

import importlib

from keras_resnet.distribution import choose_kernels
from keras_resnet.models.registry import FUNCTIONS

choose_kernels()  # TensorFlow decides once, when it is imported

_PUBLIC = {
    "UserError": "keras_resnet.errors",
    "list_models": "keras_resnet.models.registry",
    "ResNetConfig": "keras_resnet.models.config",
    "build_model": "keras_resnet.models.resnet",
    "freeze": "keras_resnet.models.resnet",
    "deep_graphs": "keras_resnet.models.deep_graphs",
    "WeightStandardizedConv2D": "keras_resnet.models.standardized",
    "create_model": "keras_resnet.applications",
    "fold_batch_norms": "keras_resnet.graphs.folding",
    "Recipe": "keras_resnet.training.recipes",
    "train": "keras_resnet.training.trainer",
    "load_source": "keras_resnet.data.sources",
    "load_model": "keras_resnet.storage",
    "save_model": "keras_resnet.storage",
    "load_artifact": "keras_resnet.artifact",
    "artifact_of": "keras_resnet.artifact",
    "load_weights": "keras_resnet.weights.loading",
    "learnt_preprocessing": "keras_resnet.weights.loading",
    "list_weights": "keras_resnet.weights.catalog",
    "to_state_dict": "keras_resnet.weights.pytorch",
    "explain": "keras_resnet.explanation.methods",
    "explain_files": "keras_resnet.explanation.files",
    "maximize_activation": "keras_resnet.explanation.methods",
    "score_methods": "keras_resnet.explanation.scoring",
}
# Functions with keras.applications' arguments: asking for one loads Keras, asking for their names does not.
_PUBLIC.update({name: "keras_resnet.applications" for name in FUNCTIONS})

__version__ = "0.1.0"
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
