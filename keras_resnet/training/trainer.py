"""The training of a network, from a recipe to a finished run directory. Reads from top to bottom.

An interrupted run continues bit for bit: the content of an epoch depends on the seed and the epoch's number alone, and
a checkpoint holds every variable there is, those of random generators and of the optimizer included.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_resnet.artifact import artifact_of
from keras_resnet.backends import JAX, TENSORFLOW, backend, has_tensorflow, require_backend
from keras_resnet.data.feeding import evaluation_batches
from keras_resnet.data.scanning import named_unreadable_files
from keras_resnet.distribution import create_strategy, is_chief
from keras_resnet.errors import UserError
from keras_resnet.evaluation import Evaluation, evaluate_model, evaluate_predictions, predict_split
from keras_resnet.export.formats import SAVED_MODEL_VERSION
from keras_resnet.models.config import ResNetConfig
from keras_resnet.storage import check_writable, save_model, write_json
from keras_resnet.training.callbacks import (
    AveragedWeights,
    EarlyStopping,
    EpochRecords,
    ReraiseInterrupts,
    StepBar,
    StopOnLostLoss,
    WholeEvaluation,
)
from keras_resnet.training.checkpoints import (
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    newest_epoch,
    restore_newest,
)
from keras_resnet.training.fused_normalization import copy_weights
from keras_resnet.training.named_recipes import DEFAULT_RECIPE
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.report import report_if_possible
from keras_resnet.training.runs import RunDirectory, check_run, default_name, find_network, open_run
from keras_resnet.training.setup import Setup, describe, disk_needs, prepare
from keras_resnet.workers import Workers, agreed, all_workers, named_lost_workers, shared_batches


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: The run directory.
        saved_model: The folder for serving; None on JAX, where `export.py` writes it afterwards.
        best_epoch: The epoch whose weights were kept, counted from 1.
        validation_accuracy: Top-1 accuracy on the validation split after that epoch, 0..1.
        test: The metrics on the test split.
        seconds: Wall time of all epochs, over all sessions.
        cpu_seconds: Processor time of all epochs, over all sessions.
    """

    path: Path
    saved_model: Path | None
    best_epoch: int
    validation_accuracy: float
    test: Evaluation
    seconds: float
    cpu_seconds: float


def train(
    recipe: Recipe,
    *,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    saved_models: str | os.PathLike[str] = "saved_models",
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
    based_on: str = DEFAULT_RECIPE,
    report_page: bool = True,
    network: ResNetConfig | None = None,
) -> RunResult:
    """Trains a network, or resumes a training that was interrupted.

    Args:
        recipe: Every setting.
        name: Name of the run; default: data set, model and seed.
        runs: Folder of the run directories.
        saved_models: Folder of the exported models.
        resume: Whether there must be a run to resume. Without it one is continued when it is there.
        overwrite: Whether a run of this name may be removed first.
        report: Takes the lines for a person; a live bar appears on a terminal besides.
        based_on: The named recipe that the settings started from, or the path of a file; recipe.json records it.
        report_page: Whether to write report.html.
        network: The configuration of the network; default: what the recipe names.

    Returns:
        The finished run.

    Raises:
        UserError: A setting, a folder or the data is wrong, or the loss became NaN or infinite.
    """
    require_backend()
    run = RunDirectory(Path(runs) / (name or default_name(recipe)))
    network = network or find_network(recipe, run, report=report)
    served = Path(saved_models) / run.path.name
    check_run(run, served, resume=resume, overwrite=overwrite)
    # The devices come first: TensorFlow takes them once, and every tensor made before would lie elsewhere.
    strategy = create_strategy(recipe.devices, workers=True)
    writes = is_chief(strategy)
    if not writes:
        report = _silent
    with named_lost_workers(strategy):
        setup = prepare(recipe, strategy, config=network, report=report)
    recipe, data, model, preprocessing, twin = setup.recipe, setup.data, setup.model, setup.preprocessing, setup.twin

    run_bytes, served_bytes = disk_needs(model)
    if writes and backend() == TENSORFLOW:
        check_writable(saved_models, served_bytes)
    with (
        named_lost_workers(strategy),
        open_run(
            run,
            recipe,
            network=setup.config,
            dataset=describe(data),
            resume=resume,
            overwrite=overwrite,
            writes=writes,
            needed_bytes=run_bytes,
            report=report,
            based_on=based_on,
        ),
    ):
        # Where it stopped
        state = _restore(setup, run, writes, report)
        report(
            f"{run.path}: {recipe.model} ({model.count_params():,} parameters) on {data.name}, "
            f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
        )
        devices = strategy.num_replicas_in_sync
        if devices > 1:
            whose = f"{strategy.workers} workers" if getattr(strategy, "workers", 1) > 1 else "one process"
            report(
                f"{devices} devices of {whose} share each batch of {recipe.batch_size:,}: "
                f"{recipe.batch_size // devices:,} images each, batch normalization {recipe.batch_norm}"
            )
        if devices > 1 or recipe.rate_factor != 1:
            report(
                f"learning rate {recipe.learning_rate * recipe.rate_factor:g} (learning_rate_scaling "
                f"{recipe.learning_rate_scaling}: {recipe.learning_rate:g} × {recipe.rate_factor:g})"
            )
        for label, count in (data.bad_images or {}).items():
            if count:
                report(f"Skipped {count} unreadable images in class {label}.")
        if state.epoch:
            report(f"Resuming after epoch {state.epoch} of {recipe.epochs}.")

        # Epochs
        if state.epoch < recipe.epochs and not state.has_stopped(recipe.patience):
            with named_unreadable_files(data.train, data.validation):
                state = _fit(setup, run, state, report, writes)

        # The best network; the chief has written it when it comes here.
        agreed(strategy, state.epoch)
        load_checkpoint(checkpoint_path(run.checkpoints, state.best_epoch), twin, twin.optimizer)
        with named_unreadable_files(data.test):
            both = {}
            artifact = artifact_of(model, preprocessing)  # it answers with the weights that the network has then
            if recipe.ema_decay:
                copy_weights(twin, model)
                both["trained_weights"] = _short(evaluate_model(artifact, data.test))
                setup.freezing.freeze(state.best_epoch - 1)  # frozen statistics stay what they were
                setup.average()
            copy_weights(twin, model)
            predictions = predict_split(artifact, data.test)
        test = evaluate_predictions(*predictions, data.labels)
        if recipe.ema_decay:
            both["averaged_weights"] = _short(test)

        result = RunResult(
            path=run.path,
            saved_model=served / SAVED_MODEL_VERSION if backend() == TENSORFLOW else None,
            best_epoch=state.best_epoch,
            validation_accuracy=state.best_accuracy,
            test=test,
            seconds=state.seconds,
            cpu_seconds=state.cpu_seconds,
        )
        if writes:
            # The test metrics come last: they mark the run as finished.
            save_model(model, run.model, preprocessing, setup.config)
            _export(setup, served, run, report)
            metrics = {
                **test.to_dict(),
                **both,
                "best_epoch": result.best_epoch,
                "validation_accuracy": result.validation_accuracy,
                "training_seconds": round(result.seconds, 1),
                "training_cpu_seconds": round(result.cpu_seconds, 1),
            }
            if report_page:
                report_if_possible(
                    run,
                    setup,
                    artifact=artifact,
                    predictions=predictions,
                    metrics=metrics,
                    report=report,
                )
            write_json(run.test_metrics, metrics)
        agreed(strategy, state.epoch)  # nobody leaves before the chief is done
    return result


def _restore(setup: Setup, run: RunDirectory, writes: bool, report: Callable[[str], None]) -> TrainingState:
    """Restores the newest checkpoint; several workers do so together, because they compare each value that they set."""
    if isinstance(setup.strategy, Workers):
        writes = False  # a damaged file stays until its epoch is trained again: another worker may be reading it
        agreed(setup.strategy, 0)  # the chief has prepared the folder
        epoch = newest_epoch(run.checkpoints)
        if not agreed(setup.strategy, epoch):
            raise UserError(
                f"All workers must read the same run, and they found different checkpoints in {run.checkpoints} (this "
                f"one: epoch {epoch}). Put --runs on a file system that they share."
            )
    return restore_newest(run.checkpoints, setup.twin, setup.twin.optimizer, writes=writes, report=report)


def _export(setup: Setup, served: Path, run: RunDirectory, report: Callable[[str], None]) -> None:
    """Writes the folder for serving; on JAX a line says how to have it."""
    if backend() == TENSORFLOW:
        from keras_resnet.export.saved_model import export_saved_model

        export_saved_model(setup.model, setup.preprocessing, served, overwrite=True, config=setup.config)
        return
    command = shlex.join(["python", "export.py", os.fspath(run.path), "--output", os.fspath(served)])
    report(f"SavedModel and .tflite files are written by TensorFlow: KERAS_BACKEND=tensorflow {command}")


def _short(evaluation: Evaluation) -> dict[str, float]:
    return {"top1": evaluation.top1, "loss": evaluation.loss, "ece": evaluation.ece}


def _silent(line: str) -> None:
    """Takes the lines of a worker that is not the chief."""


def _fit(
    setup: Setup, run: RunDirectory, state: TrainingState, report: Callable[[str], None], writes: bool
) -> TrainingState:
    twin, recipe = setup.twin, setup.recipe
    counts = {"steps": setup.steps, "batch_size": recipe.batch_size, "epochs": recipe.epochs}
    shares_on_jax = isinstance(setup.strategy, Workers) and backend() == JAX
    records = EpochRecords(run, start=state, report=report, writes=writes, **counts)
    interrupts = ReraiseInterrupts()
    everything = [
        interrupts,
        StopOnLostLoss(run, lambda: records.state),
        setup.freezing,
        *([AveragedWeights(setup.average)] if recipe.ema_decay else []),
        *([WholeEvaluation(setup.strategy.distribution)] if shares_on_jax else []),
        *([StepBar(**counts)] if writes and sys.stderr.isatty() else []),
        # Its logs are written by TensorFlow.
        *([keras.callbacks.TensorBoard(run.tensorboard, write_graph=False)] if writes and has_tensorflow() else []),
        records,
        *([EarlyStopping(recipe.patience, lambda: records.state, report)] if recipe.patience else []),
    ]
    validation = evaluation_batches(setup.data.validation, setup.preprocessing, batch_size=recipe.batch_size)
    # On TensorFlow, `fit` enters its strategy itself, and anything else built meanwhile must not belong to it.
    with all_workers(setup.strategy) if shares_on_jax else contextlib.nullcontext(), interrupts:
        twin.fit(
            shared_batches(setup.strategy, setup.batches(first_epoch=state.epoch, epochs=recipe.epochs)),
            validation_data=validation,
            steps_per_epoch=setup.steps,
            initial_epoch=state.epoch,
            epochs=recipe.epochs,
            callbacks=everything,
            shuffle=False,  # the pipeline has done it
            verbose=0,
        )
    return records.state
