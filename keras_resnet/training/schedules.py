"""Learning rates over the course of training.

"cosine": Loshchilov & Hutter 2017 (arXiv:1608.03983), one half-period without restarts. "step": He et al. 2016
(arXiv:1512.03385), section 4.2: divided by 10 at 50 % and at 75 % of training, or at other milestones. Each may start
with a linear warm-up (Goyal et al. 2017, arXiv:1706.02677), which the paper's ResNet-110 needs, too.
"""

import math
from collections.abc import Sequence

import keras

from keras_resnet.choices import SCHEDULES
from keras_resnet.errors import unknown_name


@keras.saving.register_keras_serializable(package="keras_resnet")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the step.

    Args:
        name: "cosine", "step" or "constant".
        learning_rate: The highest rate.
        steps: Steps of the whole training, warm-up included.
        warmup_steps: Steps over which the rate rises linearly; step k has (k + 1) / warmup_steps of the highest rate.
        milestones: Parts of the training, 0..1, after each of which "step" multiplies the rate by `decay_factor`.
        decay_factor: That factor.
        final_learning_rate: Where "cosine" ends.
    """

    def __init__(
        self,
        *,
        name: str,
        learning_rate: float,
        steps: int,
        warmup_steps: int = 0,
        milestones: Sequence[float] = (0.5, 0.75),
        decay_factor: float = 0.1,
        final_learning_rate: float = 0.0,
    ):
        super().__init__()
        if name not in SCHEDULES:
            raise unknown_name("schedule", name, SCHEDULES)
        self.name = name
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.milestones = tuple(milestones)
        self.decay_factor = decay_factor
        self.final_learning_rate = final_learning_rate

    def __call__(self, step):
        """Returns the rate, a float32 scalar tensor, of a step counted from 0."""
        ops = keras.ops
        step = ops.cast(step, "float32")
        if self.name == "cosine":
            span = max(self.steps - self.warmup_steps, 1)
            progress = ops.clip((step - self.warmup_steps) / span, 0.0, 1.0)
            last = self.final_learning_rate / self.learning_rate
            factor = last + (1.0 - last) * 0.5 * (1.0 + ops.cos(math.pi * progress))
        elif self.name == "step":
            factor = ops.ones_like(step)
            for passed, milestone in enumerate(self.milestones, start=1):
                factor = ops.where(step < milestone * self.steps, factor, self.decay_factor**passed)
        else:
            factor = ops.ones_like(step)
        if self.warmup_steps:
            factor = ops.where(step < self.warmup_steps, (step + 1.0) / self.warmup_steps, factor)
        return self.learning_rate * factor

    def get_config(self):
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "milestones": self.milestones,
            "decay_factor": self.decay_factor,
            "final_learning_rate": self.final_learning_rate,
        }
