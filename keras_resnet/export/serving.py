"""The network as it is served: pixels in, probabilities and a heat map out, nothing in it that training needed.

The heat map is the class activation map (Zhou et al. 2016, arXiv:1512.04150): behind global average pooling and one
Dense layer, the logit of class c is the mean over positions of Σ_f features_f · w_fc, plus a bias. Those summands are
the map, without a gradient. Grad-CAM of the logit on the last feature map is the same map up to a factor (Selvaraju et
al. 2017, arXiv:1610.02391, appendix A). What speaks against the class is cut off at zero, as there.
"""

import keras
import tensorflow as tf
from keras import layers

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.graphs.folding import fold_batch_norms
from keras_resnet.graphs.heads import Head, check_classifier, find_head
from keras_resnet.graphs.pixels import fold_pixels
from keras_resnet.graphs.precision import to_bfloat16, to_float32
from keras_resnet.models.deep_graphs import deep_graphs

PRECISIONS = ("float32", "bfloat16")


def check_exportable(model: keras.Model, preprocessing: Preprocessing) -> Head:
    """Makes sure that a model is a classifier of single images that its preprocessing fits.

    Args:
        model: The model.
        preprocessing: How an image becomes its input.

    Returns:
        Its head.

    Raises:
        UserError: The model is not such a classifier, its classes do not exclude each other, or the preprocessing has
            another size, channels or number of labels.
    """
    head = check_classifier(model)
    if head.activation == "sigmoid":
        raise UserError(
            "The model does not classify into exclusive classes: it ends in 'sigmoid'. It must return logits or a "
            "softmax of them."
        )
    shape, classes = tuple(model.inputs[0].shape[1:]), model.outputs[0].shape[-1]
    if shape[-1] not in (1, 3):
        raise UserError(f"The input must be images (height, width, 1 or 3 channels), channels last, got {shape}.")
    expected = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if any(have is not None and have != want for have, want in zip(shape, expected, strict=True)):
        raise UserError(
            f"The preprocessing gives images of {expected}, the network takes {shape}. Give the preprocessing that the "
            "network was trained with."
        )
    if preprocessing.labels and len(preprocessing.labels) != classes:
        raise UserError(f"The preprocessing names {len(preprocessing.labels)} classes, the network has {classes}.")
    return head


def serving_network(
    model: keras.Model,
    preprocessing: Preprocessing,
    *,
    heatmap: str = "none",
    classes: str = "row",
    precision: str = "float32",
) -> keras.Model:
    """Builds the network that every format is written from.

    Args:
        model: A classifier that returns logits or probabilities, of any floating-point precision; left as it is.
        preprocessing: How an image becomes its input; its normalisation goes into the network.
        heatmap: "none"; "top" adds the heat map of the most probable class; "input" adds it for the class that a
            second input names (-1: the most probable one). "parts" adds what `class_activation` draws it from.
        classes: How the heat map reads the head, see `ClassActivation`.
        precision: One of `PRECISIONS`: "float32", or "bfloat16" for the feature maps, see `to_bfloat16`.

    Returns:
        A model without foldable batch normalisation, from `images`, float32 (batch, height, width, channels)
        in 0..255, RGB (and `target`, int32 (batch,)), to a dictionary: `probabilities`, float32 (batch, classes), and
        `heatmap`, float32 (batch, rows, columns), at least 0, in units of the logit: where the features speak for the
        class. Divide it by its maximum to draw it. With "parts", `features` and `kernel` in its place.

    Raises:
        UserError: The model is not such a classifier, or a heat map is asked for and it does not end in global average
            pooling and one Dense layer, or the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    head = check_exportable(model, preprocessing)
    if heatmap != "none" and head.dense is None:
        raise UserError(
            "A heat map needs a network that ends in global average pooling and one Dense layer; "
            f"{model.name!r} does not. Export it without a heat map."
        )
    folded = fold_batch_norms(to_float32(model))
    outputs = [folded.outputs[0]]
    if heatmap != "none":
        outputs.append(folded.get_layer(head.pooling).input)
        with deep_graphs():
            folded = keras.Model(folded.inputs, outputs)
    pixels = fold_pixels(
        folded,
        mean=preprocessing.mean,
        std=preprocessing.std,
        reverse_channels=preprocessing.color_order == "bgr",
        shape=(preprocessing.height, preprocessing.width, preprocessing.channels),
    )
    if precision == "bfloat16":
        pixels = to_bfloat16(pixels)
    if heatmap == "none":
        scores, features = pixels.outputs[0], None
    else:
        scores, features = pixels.outputs
    inputs = {"images": pixels.inputs[0]}
    probabilities = scores if head.has_probabilities else layers.Softmax(name="probabilities")(scores)
    answers = {"probabilities": probabilities}
    if features is not None:
        inner = next(layer for layer in pixels.layers if isinstance(layer, keras.Model))
        dense = inner.get_layer(head.dense)
        read = [features, scores]
        if heatmap == "input":
            inputs["target"] = keras.Input((), dtype="int32", name="target")
            read.append(inputs["target"])
        if heatmap == "parts":
            answers |= {
                "features": keras.ops.cast(features, "float32"),
                "kernel": HeadKernel(dense, name="kernel")(features),
            }
        else:
            answers["heatmap"] = ClassActivation(dense, classes, name="heatmap")(read)
    with deep_graphs():
        return keras.Model(inputs if len(inputs) > 1 else pixels.inputs[0], answers, name=model.name)


class ClassActivation(layers.Layer):
    """The class activation map, reading the weights of the head itself, so that they are stored once.

    Args:
        dense: The head.
        classes: "row" for a graph whose weights are constants: the head's kernel is kept with one row per class, as a
            .tflite file keeps it for the head. "scaled row" is the same with each row divided by its largest magnitude
            and the map multiplied by that: eight bits for each class instead of for all of them, which halves what the
            map loses in an 8-bit file.
            "column" takes a column of the kernel as ONNX and OpenVINO keep it. "all" computes the maps of all classes
            and picks one: 1/40 more work for ResNet-50, but the only way that TFLite can quantise to 16-bit
            activations.
    """

    def __init__(self, dense: layers.Dense, classes: str, **options):
        super().__init__(**options)
        self.dense = dense
        self.classes = classes

    def call(self, inputs):
        features, scores, *given = inputs
        # TensorFlow's own: Keras' argmax tells -0.0 from 0.0 with operators that TFLite does not have.
        target = tf.argmax(scores, axis=-1, output_type=tf.int32)
        if given:
            target = tf.where(given[0] < 0, target, given[0])
        _, rows, columns, channels = features.shape
        kernel = tf.convert_to_tensor(self.dense.kernel)
        if self.classes == "all":
            maps = tf.matmul(tf.reshape(features, (-1, channels)), kernel)
            maps = tf.reshape(maps, (-1, rows * columns, kernel.shape[-1]))
            activation = tf.gather(maps, target, axis=2, batch_dims=1)
        elif self.classes == "column":
            weights = tf.transpose(tf.gather(kernel, target, axis=1))[:, :, tf.newaxis]
            activation = tf.matmul(tf.reshape(features, (-1, rows * columns, channels)), weights)
        else:
            kernel = tf.transpose(kernel)
            largest = tf.reduce_max(tf.abs(kernel), axis=1)
            is_scaled = self.classes == "scaled row"
            table = tf.math.divide_no_nan(kernel, largest[:, tf.newaxis]) if is_scaled else kernel
            weights = tf.reshape(tf.gather(table, target), (-1, channels, 1))
            positions = tf.reshape(features, (-1, rows * columns, channels))
            activation = tf.matmul(positions, weights)
            if is_scaled:
                activation *= tf.reshape(tf.gather(largest, target), (-1, 1, 1))
        return tf.nn.relu(tf.reshape(activation, (-1, rows, columns)))

    def compute_output_shape(self, input_shape):
        return input_shape[0][:-1]


class HeadKernel(layers.Layer):
    """The weights of the head themselves, as an output beside the features, for `class_activation`.

    Args:
        dense: The head.
    """

    def __init__(self, dense: layers.Dense, **options):
        super().__init__(**options)
        self.dense = dense

    def call(self, features):
        return tf.convert_to_tensor(self.dense.kernel)

    def compute_output_shape(self, input_shape):
        return tuple(self.dense.kernel.shape)


def class_activation(features: tf.Tensor, kernel: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Returns the class activation map, as `ClassActivation` does, with the fewest operators for TensorFlow.

    Of a small network at batch 1 the time is that of starting operators, and its product of such thin matrices takes
    ten times as long as this. Where the kernel is a constant, so are its rows.

    Args:
        features: float32 (batch, rows, columns, channels).
        kernel: float32 (channels, classes).
        target: int32 (batch,), the class.

    Returns:
        float32 (batch, rows, columns), at least 0.
    """
    rows = tf.reshape(tf.transpose(kernel), (kernel.shape[1], 1, 1, kernel.shape[0]))
    return tf.nn.relu(tf.reduce_sum(features * tf.gather(rows, target), axis=-1))


def explained_scores(model: keras.Model):
    """Returns the network with Grad-CAM by gradients: what the heat map in an exported graph is held to.

    Args:
        model: A float32 classifier with a heat map head.

    Returns:
        A function of (images, target): its input, float32 (batch, height, width, channels), normalised, and the class,
        int (batch,), or None for the most probable one; to (scores, heat maps): tensors, float32 (batch, classes) and
        (batch, rows, columns), at least 0.

    Reference:
        Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    head = find_head(model)
    pooling, dense = model.get_layer(head.pooling), model.get_layer(head.dense)
    with deep_graphs():
        both = keras.Model(model.inputs, [pooling.input, model.outputs[0]])

    @tf.function(reduce_retracing=True, autograph=False)
    def run(images, classes):
        features, scores = both(images, training=False)
        classes = tf.where(classes < 0, tf.argmax(scores, axis=-1), classes)
        # The gradient is that of the head; what lies before the features need not be remembered.
        with tf.GradientTape() as tape:
            tape.watch(features)
            chosen = tf.gather(dense(pooling(features)), classes, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(chosen, features), axis=(1, 2), keepdims=True)
        return scores, tf.nn.relu(tf.reduce_sum(weights * features, axis=-1))

    def with_target(images, target=None):
        images = tf.convert_to_tensor(images, tf.float32)
        classes = tf.fill([len(images)], tf.constant(-1, tf.int64)) if target is None else tf.constant(target, tf.int64)
        return run(images, classes)

    return with_target
