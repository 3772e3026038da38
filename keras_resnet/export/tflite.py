"""The .tflite family: float32, float16, dynamic-range, full int8, and int16 activations with int8 weights.

Only TFLite's builtin operators are allowed: a graph that needs Flex (TensorFlow's own operators) converts without a
word elsewhere and does not run on a phone.

Reference:
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export.formats import FORMATS, IO_TYPES, QUANTIZERS
from keras_resnet.export.tflite_file import share_head

VARIANTS = tuple(name for name, row in FORMATS.items() if row.runtime == "tflite")


def convert(
    network: keras.Model,
    variant: str,
    *,
    calibration: np.ndarray | None = None,
    batch: int | None = 1,
    io_type: str = "uint8",
    quantizer: str = "converter",
    progress: Callable[[], None] = lambda: None,
) -> bytes:
    """Converts a network to TFLite.

    Args:
        network: From `serving.serving_network`: pixels in, probabilities out.
        variant: "float32", "float16" (weights), "dynamic" (int8 weights, activations at run time), "int8" or
            "int16x8".
        calibration: float32 [images, height, width, channels], 0..255, for "int8" and "int16x8".
        batch: Images of a call; None leaves it open.
        io_type: What an int8 file takes and returns: "uint8" (the camera's pixels as they are), "int8" or "float32".
            The other variants speak float32.
        quantizer: "converter" (TensorFlow's) or "litert" (the package litert-quantizer, for "dynamic" and for "int8"
            with io type "int8").
        progress: Called after each calibration image.

    Returns:
        The file's bytes, without metadata.

    Raises:
        UserError: An unknown option, no calibration images where they are needed, a missing package, or operators
            that TFLite does not have.
    """
    for kind, value, valid in (
        ("TFLite variant", variant, VARIANTS),
        ("quantizer", quantizer, QUANTIZERS),
        ("input and output type", io_type, IO_TYPES),
    ):
        if value not in valid:
            raise unknown_name(kind, value, valid)
    if batch is not None and batch < 1:
        raise UserError(f"The batch must be at least 1, or open, got {batch}.")
    if FORMATS[variant].is_calibrated and calibration is None:
        raise UserError(f"{variant} needs calibration images: give --calibration and a data set.")
    if quantizer == "litert" and variant in ("dynamic", "int8"):
        check_quantizer(quantizer, variant, io_type, targets=len(network.inputs) > 1)
        plain = convert(network, "float32", batch=batch)
        return share_head(_quantize_with_litert(plain, variant, calibration, progress))

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _write_graph(network, batch, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if FORMATS[variant].is_calibrated:
            converter.representative_dataset = lambda: _samples(network, calibration, batch, progress)
        if variant == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io_type)
        if variant == "int16x8":
            # The operator set alone would leave operators without an int16 kernel out; they stay in float32.
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
        with _quiet():
            try:
                contents = converter.convert()
            except Exception as error:  # ConverterError, ValueError, RuntimeError: by the stage that fails
                raise _conversion_error(error, variant) from error
    return share_head(contents)


def check_quantizer(quantizer: str, variant: str, io_type: str, *, targets: bool = False) -> None:
    """Raises the UserError for what the quantizer "litert" cannot write."""
    if quantizer != "litert" or variant != "int8":
        return
    if io_type != "int8":
        raise UserError(f"The quantizer 'litert' writes int8 input and output only, got io type {io_type!r}. Say int8.")
    if targets:
        raise UserError("The quantizer 'litert' takes one input: explain the top class, or use the converter.")


def _write_graph(network: keras.Model, batch: int | None, folder: str) -> None:
    """Writes the network with its weights as constants: a converter cannot lose those."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = [x.name for x in network.inputs]
    specs = [tf.TensorSpec((batch, *x.shape[1:]), x.dtype, name=x.name) for x in network.inputs]

    @tf.function(input_signature=specs, autograph=False)
    def run(*inputs):
        return network(dict(zip(names, inputs, strict=True)) if len(inputs) > 1 else inputs[0], training=False)

    concrete = run.get_concrete_function()
    constant = convert_variables_to_constants_v2(concrete)
    keys = sorted(concrete.structured_outputs)

    @tf.function(input_signature=specs, autograph=False)
    def serve(*inputs):
        outputs = constant(*inputs)
        return {
            key: tf.ensure_shape(value, concrete.structured_outputs[key].shape)
            for key, value in zip(keys, outputs, strict=True)
        }

    tf.saved_model.save(tf.Module(), folder, signatures={"serving_default": serve.get_concrete_function()})


def _samples(network: keras.Model, images: np.ndarray, batch: int | None, progress: Callable) -> Iterator[dict]:
    size = batch or 1
    has_target = len(network.inputs) > 1
    classes = next(x.shape[-1] for x in network.outputs if len(x.shape) == 2)
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        if len(chunk) < size:
            chunk = np.concatenate([chunk, images[: size - len(chunk)]])[:size]
            chunk = np.resize(chunk, (size, *images.shape[1:]))
        if start == 0:
            # Black and white must be in the set: then a pixel's scale is exactly 1 and its zero point 0.
            chunk = chunk.copy()
            chunk[0, 0, 0], chunk[0, -1, -1] = 0.0, 255.0
        sample = {"images": chunk.astype(np.float32)}
        if has_target:
            # Maps of other classes than the top one have other ranges: every second call asks for one, all in turn.
            is_top = start // size % 2 == 0
            sample["target"] = np.full(size, -1 if is_top else start * classes // len(images), np.int32)
        yield sample
        progress()


def _quantize_with_litert(plain: bytes, variant: str, calibration, progress: Callable) -> bytes:
    try:
        from litert_quantizer import quantizer as litert
        from litert_quantizer import recipe
    except ImportError:
        try:
            from ai_edge_quantizer import quantizer as litert
            from ai_edge_quantizer import recipe
        except ImportError:
            raise UserError(
                "The quantizer 'litert' needs the package litert-quantizer: pip install litert-quantizer."
            ) from None
    with contextlib.redirect_stdout(io.StringIO()), _quiet():  # it prints a report of its own
        if variant == "dynamic":
            return bytes(litert.Quantizer(bytearray(plain), recipe.dynamic_wi8_afp32()).quantize().quantized_model)
        chosen = litert.Quantizer(bytearray(plain), recipe.static_wi8_ai8())
        images = calibration.astype(np.float32)
        images[0, 0, 0], images[0, -1, -1] = 0.0, 255.0
        ranges: dict = {}
        for image in images:
            # One image a call, because over several it takes a moving average of their ranges, which cuts the extremes.
            found = chosen.calibrate({"serving_default": [{"images": image[np.newaxis]}]})
            for tensor, values in found.items():
                seen = ranges.setdefault(tensor, dict(values))
                seen["min"] = np.minimum(seen["min"], values["min"])
                seen["max"] = np.maximum(seen["max"], values["max"])
            progress()
        return bytes(chosen.quantize(ranges).quantized_model)


def _conversion_error(error: Exception, variant: str) -> UserError:
    text = str(error)
    operators = sorted(
        set(re.findall(r"(?:Flex ops?|Custom ops?|Select TF ops?)[^:\n]*: ([\w, ]+)", text))
        | set(re.findall(r"'(tf\.\w+)' op is neither", text))
    )
    if operators:
        return UserError(
            f"TFLite has no builtin operator for {', '.join(operators)}, and Flex does not run on a phone. Build the "
            "network from other layers or leave TFLite out."
        )
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return UserError(f"The network cannot be converted to TFLite {variant}: {line[:300]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter writes to the process's standard error from C++, past Python."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        yield
        return
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
