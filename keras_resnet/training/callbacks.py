"""What happens beside the steps of a training: progress, metrics.csv, checkpoints, stopping when the loss is lost."""

import contextlib
import dataclasses
import functools
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from keras_resnet.backends import JAX, backend
from keras_resnet.errors import UserError
from keras_resnet.progress import duration
from keras_resnet.training.checkpoints import TrainingState, save_checkpoint
from keras_resnet.training.runs import RunDirectory, write_metrics


def hold_values(model: keras.Model) -> None:
    """Gives a model's variables their present values within an epoch: on JAX they travel from step to step instead."""
    if backend() == JAX:
        model.jax_state_sync()


class StopOnLostLoss(keras.callbacks.Callback):
    """Stops when the loss is not finite, saying where that happened."""

    def __init__(self, run: RunDirectory, state: Callable[[], TrainingState]):
        super().__init__()
        self._run, self._state, self._epoch = run, state, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float(logs["loss"])  # the mean over the epoch so far: not finite from the first bad step on
        if math.isfinite(loss):
            return
        hold_values(self.model)
        rate = float(self.model.optimizer.learning_rate)
        state = self._state()
        kept = (
            f"The best checkpoint (epoch {state.best_epoch}, validation accuracy "
            f"{state.best_accuracy:.2%}) stays in {self._run.checkpoints}."
            if state.best_epoch
            else "No epoch was complete."
        )
        raise UserError(
            f"The loss became {loss} in epoch {self._epoch}, step {batch + 1} (learning rate {rate:.3g}). "
            f"{kept} Lower learning_rate, lengthen warmup_epochs, or use precision float32."
        )


class ReraiseInterrupts(keras.callbacks.Callback):
    """Raises Ctrl-C and SIGTERM again if Keras has swallowed them. Also used as a context around `fit`.

    Keras converts a step's logs inside a bare `except`, and on JAX that is where training waits for the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._came: BaseException | None = None
        self._was_told = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "ReraiseInterrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                with contextlib.suppress(ValueError):  # not in the main thread
                    signal.signal(number, functools.partial(self._keep, handler))
                    self._handlers[number] = handler
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._came is not None and kind is None and not self._was_told:
            raise self._came  # it came during the last step

    def _keep(self, handler: Callable[[int, Any], Any], number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except BaseException as interrupt:
            self._came = interrupt
            raise

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._came is not None:
            self._was_told = True
            raise self._came

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.on_train_batch_end(batch)


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the averaged weights that the optimizer keeps, and puts the trained ones back.

    Args:
        average: Gives the network its averaged weights, with the statistics that belong to them.
    """

    def __init__(self, average: Callable[[], None]):
        super().__init__()
        self._average = average

    def on_test_begin(self, logs: Any = None) -> None:
        # Copies, because JAX hands out views of memory that the next step takes over.
        self._trained = [np.array(values) for values in self.model.get_weights()]
        self._average()

    def on_test_end(self, logs: Any = None) -> None:
        self.model.set_weights(self._trained)


class WholeEvaluation(keras.callbacks.Callback):
    """Has each of several workers validate on all examples: no batch has to be divided evenly, and all agree exactly.

    Args:
        distribution: That of the training.
    """

    def __init__(self, distribution: Any):
        super().__init__()
        self._distribution = distribution

    def on_test_begin(self, logs: Any = None) -> None:
        keras.distribution.set_distribution(None)

    def on_test_end(self, logs: Any = None) -> None:
        keras.distribution.set_distribution(self._distribution)


class EarlyStopping(keras.callbacks.Callback):
    """Stops when no epoch has been the best one for a while: a function of the state, so that a resumed run agrees.

    Args:
        patience: Epochs.
        state: How far the training is, with the epoch that just ended.
        report: Takes a line of text.
    """

    def __init__(self, patience: int, state: Callable[[], TrainingState], report: Callable[[str], None]):
        super().__init__()
        self._patience, self._state, self._report = patience, state, report

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        state = self._state()
        if state.has_stopped(self._patience):
            self.model.stop_training = True
            self._report(f"Stopped: epoch {state.best_epoch} has been the best one for {self._patience} epochs.")


_LOGGED = ("loss", "accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy")


class EpochRecords(keras.callbacks.Callback):
    """After each epoch: a row of metrics.csv, a checkpoint, and a line for the person who waits.

    Args:
        run: The run directory.
        start: How far the training was when it was begun or resumed.
        steps: Steps per epoch.
        batch_size: Images a step.
        epochs: Epochs of the whole training.
        report: Takes a line of text.
        writes: Whether this process writes the files.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        start: TrainingState,
        steps: int,
        batch_size: int,
        epochs: int,
        report: Callable[[str], None],
        writes: bool = True,
    ):
        super().__init__()
        self.state, self._writes = start, writes
        self._run, self._start = run, start
        self._images, self._epochs, self._report = steps * batch_size, epochs, report

    def on_train_begin(self, logs: Any = None) -> None:
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_began, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs: Any = None) -> None:
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        now = time.perf_counter()
        images_per_second = self._images / ((self._trained or now) - self._epoch_began)
        row = {
            "epoch": str(epoch + 1),
            "learning_rate": f"{float(self.model.optimizer.learning_rate):.6g}",
            **{name: f"{float(logs[name]):.6f}" for name in _LOGGED if name in logs},
            "images_per_second": f"{images_per_second:.1f}",
            "seconds": f"{now - self._epoch_began:.2f}",
        }
        self._update_state(epoch + 1, logs, row)
        if self._writes:
            write_metrics(self._run.metrics, self.state.rows)
            save_checkpoint(self._run.checkpoints, self.model, self.model.optimizer, self.state)

        done = epoch + 1 - self._start.epoch
        left = (now - self._began) / done * (self._epochs - epoch - 1)
        best = " *" if self.state.best_epoch == epoch + 1 else ""
        self._report(
            f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}  {images_per_second:7,.0f} images/s  "
            f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:.4f}  "
            f"val loss {logs['val_loss']:.4f}  val accuracy {logs['val_accuracy']:.4f}{best}  "
            f"{duration(left)} left"
        )

    def _update_state(self, epoch: int, logs: dict[str, Any], row: dict[str, str]) -> None:
        # Where classes are to count alike, the network is chosen by an accuracy under which they do.
        accuracy, loss = float(logs.get("val_balanced_accuracy", logs["val_accuracy"])), float(logs["val_loss"])
        # A small validation split ties often; among equals the lower loss is the better network.
        is_best = (accuracy, -loss) > (self.state.best_accuracy, -self.state.best_loss)
        best = {"best_epoch": epoch, "best_accuracy": accuracy, "best_loss": loss} if is_best else {}
        self.state = dataclasses.replace(
            self.state,
            epoch=epoch,
            rows=(*self.state.rows, row),
            seconds=self._start.seconds + time.perf_counter() - self._began,
            cpu_seconds=self._start.cpu_seconds + time.process_time() - self._began_cpu,
            **best,
        )


class StepBar(keras.callbacks.Callback):
    """A live bar on a terminal: images of the epoch, images per second, loss, and the epoch's time left."""

    def __init__(self, *, steps: int, batch_size: int, epochs: int):
        super().__init__()
        self._steps, self._batch_size, self._epochs = steps, batch_size, epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._bar = tqdm(
            desc=f"epoch {epoch + 1}/{self._epochs}",
            total=self._steps * self._batch_size,
            unit=" images",
            mininterval=0.2,
            leave=False,
            file=sys.stderr,
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)
        self._bar.update(self._batch_size)

    def on_test_begin(self, logs: Any = None) -> None:
        self._bar.set_description("validating")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._bar.close()
