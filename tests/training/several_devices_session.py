"""What `test_several_devices` runs in a separate process, where TensorFlow has two devices.

    python several_devices_session.py DATA

Trains a few steps with each recipe, on one device and on both, and prints the results as JSON.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from keras_resnet.training.callbacks import StopOnLostLoss
from keras_resnet.training.checkpoints import TrainingState
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.runs import RunDirectory
from keras_resnet.training.setup import prepare

STEPS = 3
RECIPES = {
    # Clipped, so that clipping before the sum over devices would show.
    "synchronized": {"clip_norm": 0.05, "drop_rate": 0.3, "stochastic_depth_rate": 0.2},
    "per_device": {"batch_norm": "per_device"},
}


class Losses(StopOnLostLoss):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        losses.append(float(logs["loss"]))


cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
found = {}
for name, settings in RECIPES.items():
    for devices, strategy in strategies.items():
        recipe = Recipe(dataset=sys.argv[1], epochs=1, batch_size=16, learning_rate=0.02, seed=3, **settings)
        setup = prepare(recipe, strategy, report=lambda line: None)
        losses = []
        callbacks = [Losses(RunDirectory(None), TrainingState)]
        setup.twin.fit(setup.batches(epochs=1), steps_per_epoch=STEPS, callbacks=callbacks, shuffle=False, verbose=0)
        statistics = setup.twin.get_layer("stem_norm").moving_mean.value
        copies = getattr(statistics, "values", [statistics])
        found[f"{name} {devices}"] = {
            "losses": losses,
            "weights": [np.asarray(value).ravel().tolist() for value in setup.twin.get_weights()],
            "statistics": [np.asarray(copy).tolist() for copy in copies],
        }
print(json.dumps(found))
