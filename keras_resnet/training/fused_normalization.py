"""The network that trains: the same variables and numbers as the one that is stored, with a faster normalization.

Keras 3's BatchNormalization is written in elementary operators. TensorFlow has one fused operator for it, forward and
backward (Ioffe & Szegedy 2015, arXiv:1502.03167). A twin of the network uses that one; because the variables are the
same in the same order, the weights are copied into the plain network afterwards, which then loads anywhere without
custom objects. On JAX the twin uses the layer of `jax_normalization`; on several TensorFlow devices that normalize by
the statistics of the whole batch, it keeps Keras' layer. The twin also carries the precision policy, so that
the stored network is always a float32 one.
"""

from typing import Any

import keras

from keras_resnet.backends import JAX, backend
from keras_resnet.distribution import keras_precision, replicas
from keras_resnet.graphs.rewriting import rewrite
from keras_resnet.training.several_devices import WholeBatchDropout


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization over the last axis of [batch, height, width, channels], by TensorFlow's fused operator."""

    def call(self, inputs, training=None, mask=None):
        import tensorflow as tf

        inputs = tf.convert_to_tensor(inputs)
        channels = inputs.shape[-1]
        scale = self.gamma if self.scale else tf.ones([channels])
        offset = self.beta if self.center else tf.zeros([channels])
        # The operator takes the features in half precision, but scale, offset and statistics in float32.
        arguments = {
            "x": inputs,
            "scale": tf.convert_to_tensor(scale),
            "offset": tf.convert_to_tensor(offset),
            "epsilon": self.epsilon,
        }
        if not (training and self.trainable):
            return tf.raw_ops.FusedBatchNormV3(
                **arguments,
                mean=tf.convert_to_tensor(self.moving_mean),
                variance=tf.convert_to_tensor(self.moving_variance),
                is_training=False,
            ).y
        fused = tf.raw_ops.FusedBatchNormV3(**arguments, mean=[], variance=[], is_training=True)
        # The operator reports the variance with Bessel's correction; Keras' moving average is one without.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance = fused.batch_variance * ((count - 1.0) / count)
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + _over_devices(fused.batch_mean) * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + _over_devices(variance) * (1.0 - keep))
        return fused.y


def _over_devices(statistic: Any) -> Any:
    """Returns the mean over all devices: each normalizes by its own statistics, but all store the same network."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return statistic
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, statistic)


def training_twin(model: keras.Model, *, precision: str = "float32", batch_norm: str = "synchronized") -> keras.Model:
    """Builds the network that trains in place of another one.

    Args:
        model: A functional float32 network of built-in layers.
        precision: One of `distribution.PRECISIONS`. The last layer computes in float32 always: a
            softmax over logits in half precision loses small differences.
        batch_norm: One of `choices.BATCH_NORMS`, for a network that is trained on several devices.

    Returns:
        A network with the same weights in the same order, as float32 variables: `copy_weights` brings them back.
    """

    policy = keras_precision(precision)
    several = replicas() > 1

    def twin_layer(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        # An operator such as a padding is no layer: it computes in what it is given.
        is_layer = isinstance(layer, keras.Layer) and not isinstance(layer, keras.layers.InputLayer)
        if is_layer and layer.name not in model.output_names:
            config["dtype"] = policy
        if several and batch_norm == "synchronized" and type(layer) is keras.layers.BatchNormalization:
            return keras.layers.BatchNormalization.from_config({**config, "synchronized": True})
        if several and type(layer) is keras.layers.Dropout:
            return WholeBatchDropout.from_config(config)
        made = _twin_class(layer).from_config(config)
        if batch_norm == "per_device" and hasattr(made, "per_device"):
            made.per_device = True
        return made

    return rewrite(model, twin_layer)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies every weight between a network and its twin, after making sure that they are the same ones.

    Args:
        source: Where the weights come from.
        target: Where they go.
    """
    if [(v.path, v.shape) for v in source.weights] != [(v.path, v.shape) for v in target.weights]:
        raise ValueError("The networks' weights differ in name, shape or order.")
    target.set_weights(source.get_weights())


def _twin_class(layer: keras.Layer) -> type[keras.Layer]:
    is_plain = (
        type(layer) is keras.layers.BatchNormalization
        and layer.axis in (-1, len(layer.input.shape) - 1)
        and not layer.renorm
        and not layer.synchronized
    )
    if is_plain and backend() == JAX:
        from keras_resnet.training.jax_normalization import JaxBatchNormalization

        return JaxBatchNormalization
    return FusedBatchNormalization if is_plain and len(layer.input.shape) == 4 else type(layer)
