"""Networks rebuilt in another precision."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_resnet.errors import UserError
from keras_resnet.graphs.rewriting import Graph, copy_layer, functional, rewrite

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_GLOBAL_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def to_float32(model: keras.Model) -> keras.Model:
    """Rebuilds a network in float32: mixed-precision graphs need operators that phones do not have.

    Args:
        model: A functional or Sequential model of any floating-point policy. It is left as it is.

    Returns:
        A new functional model that computes in float32, with the same weights.

    Raises:
        UserError: If the model is neither functional nor Sequential, or is quantised already.
    """
    model = functional(model)

    def clone(layer):
        if getattr(getattr(layer, "dtype_policy", None), "quantization_mode", None) is not None:
            raise UserError(
                f"Layer {layer.name!r} is quantised already ({layer.dtype_policy.name}). Export the network as it was "
                "before quantisation."
            )
        if isinstance(layer, keras.Model):
            return to_float32(layer)
        return type(layer).from_config(_with_dtype(layer.get_config(), "float32"))

    def set_weights(old, new):
        if not isinstance(old, keras.Model):
            new.set_weights([np.asarray(w, np.float32) if _names_float(w.dtype) else w for w in old.get_weights()])

    return rewrite(model, clone, set_weights=set_weights, input_dtype="float32")


def to_bfloat16(model: keras.Model) -> keras.Model:
    """Rebuilds a network with its feature maps in bfloat16, which processors that know it compute twice as fast.

    bfloat16 has float32's range and 8 significant bits; products are summed in float32. What is pooled from the feature
    maps stays float32, the classes' scores with it. So do statistics of normalisations.

    Args:
        model: A functional or Sequential float32 model for inference, best one without batch normalisations. It is left
            as it is.

    Returns:
        A new functional model with the same inputs and layer names. Convolutions hold their weights in bfloat16.

    Raises:
        UserError: If the model is neither functional nor Sequential.

    Reference:
        Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", arXiv:1905.12322.
    """
    model = functional(model)
    # Batch, places and channels: a feature map. Batch and channels: what has been pooled from one.
    maps = {node.operation for node in Graph(model).nodes if len(node.outputs[0].shape) > 2}

    def clone(layer):
        if isinstance(layer, keras.Model):
            return to_bfloat16(layer)
        if layer not in maps or isinstance(layer, (*_GLOBAL_POOLING, layers.InputLayer)):
            return copy_layer(layer)
        dtype = "bfloat16" if isinstance(layer, _CONVOLUTIONS) else "mixed_bfloat16"
        return type(layer).from_config(_with_dtype(layer.get_config(), dtype))

    return rewrite(model, clone)


def _with_dtype(config: Any, dtype: str) -> Any:
    """A layer's configuration with every floating-point policy in it, also those of wrapped layers, set to `dtype`."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and value is not None and _names_float(value) else _with_dtype(value, dtype)
            for key, value in config.items()
        }
    return [_with_dtype(item, dtype) for item in config] if isinstance(config, list) else config


def _names_float(dtype: Any) -> bool:
    name = dtype.get("config", {}).get("name", "") if isinstance(dtype, dict) else str(dtype)
    return "float" in name
