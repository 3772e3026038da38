"""What makes a step of TensorFlow over several devices compute what one device would with the whole batch.

tf.distribute gives each device (replica) its rows of the batch and adds up the gradients; what depends on the whole
batch is mended here: the masks of dropout, and Keras' `fit` where the devices belong to several workers. On JAX a step
sees the whole batch already.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


class WholeBatchDropout(keras.layers.Dropout):
    """Dropout by masks that are drawn for the whole batch, of which each device takes those of its rows.

    Keras would draw the same mask on all devices.
    """

    def call(self, inputs, training=False):
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if not training or not self.rate or replica is None:
            return super().call(inputs, training=training)
        rows = tf.shape(inputs)[0]
        whole = tf.concat([[rows * replica.num_replicas_in_sync], tf.shape(inputs)[1:]], axis=0)
        kept = super().call(tf.ones(whole, inputs.dtype), training=training)
        first = rows * tf.cast(replica.replica_id_in_sync_group, tf.int32)
        return inputs * kept[first : first + rows]


class ModelOfWorkers(keras.Model):
    """A functional model that several workers of TensorFlow can train with `fit`, and validate each on its own.

    Keras 3.15.1 fails twice there (keras#20585): it builds a model by reducing a batch of (images, targets) as if that
    were one tensor, and it reduces each step's logs, which are scalars, along their first axis. When that is closed,
    `_maybe_symbolic_build` and `train_step` can go.

    Args:
        model: The model; its layers are shared.
        own: () → the same network for this worker alone, compiled. Called when it is needed. None: one process trains,
            and this is a model as any other.
    """

    def __init__(self, model: keras.Model, own: Callable[[], keras.Model] | None = None):
        super().__init__(inputs=model.inputs, outputs=model.outputs[0], name=model.name)
        self._own = own  # behind a function Keras does not count it as a layer

    def _maybe_symbolic_build(self, *arguments: Any, **options: Any) -> None:
        if self._own is None:
            super()._maybe_symbolic_build(*arguments, **options)
        # Otherwise network, optimizer and metrics have their variables by now.

    def train_step(self, *arguments: Any) -> Any:
        logs = super().train_step(*arguments)
        if self._own is None:
            return logs
        return {name: ops.reshape(value, [1]) for name, value in logs.items()}

    def evaluate(self, x: Any = None, *, callbacks: Any = None, **options: Any) -> Any:
        if self._own is None:
            return super().evaluate(x, callbacks=callbacks, **options)
        # On all examples: no batch has to be divided evenly, and all workers agree exactly.
        callbacks.on_test_begin()
        own = self._own()
        own.set_weights(self.get_weights())
        logs = own.evaluate(x, return_dict=True, verbose=0)
        callbacks.on_test_end(logs)
        return logs
