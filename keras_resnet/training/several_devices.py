"""Makes a TensorFlow step on several devices compute what one device would compute with the whole batch.

tf.distribute gives each device (replica) its rows of the batch and sums the gradients. This module fixes what depends
on the whole batch: the dropout masks, and Keras' `fit` where the devices belong to several workers. On JAX, a step
already sees the whole batch.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


class WholeBatchDropout(keras.layers.Dropout):
    """Dropout that draws one mask for the whole batch; each device uses the part for its own rows.

    Keras would draw the same mask on every device.
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


class MultiWorkerModel(keras.Model):
    """A functional model that several TensorFlow workers can train with `fit`; each of them validates on its own.

    Keras 3.15.1 fails here in two ways (keras#20585): it builds a model by reducing a batch of (images, targets) as if
    it were one tensor, and it reduces each step's logs along their first axis, although they are scalars. Once that
    issue is closed, `_maybe_symbolic_build` and `train_step` can be removed.

    Args:
        model: The model; its layers are shared.
        evaluation_twin: () → the same network for this worker alone, compiled. Called when it is needed. None: one
            process trains, and this is an ordinary model.
    """

    def __init__(self, model: keras.Model, evaluation_twin: Callable[[], keras.Model] | None = None):
        super().__init__(inputs=model.inputs, outputs=model.outputs[0], name=model.name)
        self._evaluation_twin = evaluation_twin  # a function, because Keras would track the network itself as a layer

    def _maybe_symbolic_build(self, *arguments: Any, **options: Any) -> None:
        if self._evaluation_twin is None:
            super()._maybe_symbolic_build(*arguments, **options)
        # Otherwise the network, optimizer and metrics already have their variables.

    def train_step(self, *arguments: Any) -> Any:
        logs = super().train_step(*arguments)
        if self._evaluation_twin is None:
            return logs
        return {name: ops.reshape(value, [1]) for name, value in logs.items()}

    def evaluate(self, x: Any = None, *, callbacks: Any = None, **options: Any) -> Any:
        if self._evaluation_twin is None:
            return super().evaluate(x, callbacks=callbacks, **options)
        # On all examples, so that no batch has to divide evenly and all workers agree exactly.
        callbacks.on_test_begin()
        twin = self._evaluation_twin()
        twin.set_weights(self.get_weights())
        logs = twin.evaluate(x, return_dict=True, verbose=0)
        callbacks.on_test_end(logs)
        return logs
