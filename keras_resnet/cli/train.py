"""`train.py`: trains a network; the same command again resumes a run that was interrupted."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet import provenance
from keras_resnet.archives import megabytes
from keras_resnet.cli import script
from keras_resnet.cli.launching import json_alone, launch_workers
from keras_resnet.cli.models import TABLE_HEADER, table_row
from keras_resnet.cli.recipes import settings_table
from keras_resnet.errors import UserError
from keras_resnet.models.config_files import network_name
from keras_resnet.storage import append_row, check_could_write
from keras_resnet.training.launch import ENGINES, without_overwrite
from keras_resnet.training.named_recipes import DEFAULT_RECIPE, recipe_settings
from keras_resnet.training.recipe_files import load_settings, override
from keras_resnet.training.recipes import Recipe, setting_kind
from keras_resnet.training.runs import RunDirectory, default_name, find_network
from keras_resnet.workers import place_in_environment


def build_parser() -> script.Parser:
    """Returns the parser: the run's own flags, and one flag for each setting of a recipe."""
    parser = script.Parser(
        prog="train.py",
        description="Trains a network. With no flags: handwritten digits, which takes some minutes on two cores. "
        "The same command again resumes a run that was interrupted.",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="settings to start from, .json or .yaml; flags override them",
    )
    run.add_argument("--name", help="name of the run; default: data set, model and seed")
    run.add_argument("--runs", metavar="FOLDER", default="runs", help="folder of the run directories")
    run.add_argument("--saved-models", metavar="FOLDER", default="saved_models", help="folder of the exported models")
    run.add_argument("--resume", action="store_true", help="only resume a run that is there already")
    run.add_argument("--overwrite", action="store_true", help="remove a run of the same name first")
    run.add_argument(
        "--workers",
        type=script.positive_int,
        metavar="N",
        help="train with N processes that share each batch",
    )
    run.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="what starts the workers: this script, on this machine (local), or Ray (ray)",
    )
    run.add_argument("--address", metavar="HOST:PORT", help="Ray cluster; default: Ray on this machine only")
    run.add_argument(
        "--restarts",
        type=script.at_least(0),
        metavar="K",
        default=0,
        help="how many times --workers starts all again where one was lost",
    )
    run.add_argument("--results", metavar="FILE.csv", help="append the result as a row to this file")
    run.add_argument("--json", action="store_true", help="one JSON object on standard output; lines on stderr")
    kind = parser.add_argument_group("instead of one training").add_mutually_exclusive_group()
    kind.add_argument(
        "--dry-run",
        action="store_true",
        help="measure a few steps, say what the training is and will take, and write nothing",
    )
    kind.add_argument(
        "--find-learning-rate",
        action="store_true",
        help="raise the rate for at most 200 updates, suggest one, and leave no run",
    )
    run.add_argument("--output", metavar="FILE", help="picture of --find-learning-rate, .png or .svg")
    kind.add_argument(
        "--seeds",
        type=script.at_least(2),
        metavar="N",
        help="train with N seeds, --seed and those behind it, and show mean and standard deviation; "
        "the same command again goes on where it stopped",
    )
    settings = parser.add_argument_group("recipe")
    settings.add_argument(
        "--skip-bad-images",
        dest="recipe.bad_images",
        action="store_const",
        const="skip",
        default=argparse.SUPPRESS,
        help="skip unreadable images, and say how many; the same as --bad-images skip",
    )
    settings.add_argument(
        "--rescan", action="store_true", help="check every file of an image folder anew, not changed ones alone"
    )
    for field in dataclasses.fields(Recipe):
        choices = field.metadata.get("choices")
        shown = "" if field.default is None else f" (default: {field.default})"
        # The recipe checks the values: one place decides, whether they come from a flag or a file.
        settings.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=f"recipe.{field.name}",
            type=setting_kind(field),
            metavar="{" + ",".join(choices) + "}" if choices else setting_kind(field).__name__.upper(),
            help=field.metadata["help"] + shown,
            default=argparse.SUPPRESS,
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)

    def command(arguments: argparse.Namespace) -> int:
        if not arguments.json or place_in_environment().workers == 1:
            return train_or_launch(arguments, given)
        with open(os.dup(1), "w") as output, json_alone(output):
            return train_or_launch(arguments, given)

    code = script.run(command, build_parser(), given)
    from keras_resnet.workers import leave

    return leave(code)


def train_or_launch(arguments: argparse.Namespace, given: list[str]) -> int:
    """Does what the parsed arguments ask for and returns the exit code; `given` holds the unparsed arguments."""
    began, began_cpu = time.perf_counter(), time.process_time()
    recipe, said = _recipe(arguments)
    if arguments.output and not arguments.find_learning_rate:
        raise UserError(f"--output belongs to --find-learning-rate, got {arguments.output!r}. Leave it out.")
    name = arguments.name or default_name(recipe)
    if name in (".", "..") or Path(name).name != name:
        raise UserError(f"A run's name is the name of one folder, got {name!r}. Use --runs for the place.")
    # Names are checked before TensorFlow is loaded, so that a typing mistake is answered at once.
    seed = f"-seed{recipe.seed}" if arguments.seeds and arguments.name else ""
    find_network(recipe, RunDirectory(Path(arguments.runs) / f"{name}{seed}"), report=lambda line: None)
    script.check_data_set(recipe.dataset)

    from keras_resnet.backends import require_backend

    require_backend()
    several = _check_workers(arguments)

    if arguments.rescan and not (several and place_in_environment().rank):
        from keras_resnet.data.folder import forget_scan

        forget_scan(recipe.dataset)

    def report(line: str) -> None:
        print(line, file=sys.stderr if arguments.json else sys.stdout, flush=True)

    if several and arguments.workers:
        with _resumable(given):
            return launch_workers(arguments, recipe, given, report)
    for line in said:
        report(line)
    places = {
        "name": name,
        "runs": arguments.runs,
        "saved_models": arguments.saved_models,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "report": report,
    }
    if arguments.find_learning_rate:
        return _find_learning_rate(recipe, arguments, report)
    if arguments.dry_run:
        return _dry_run(recipe, arguments.json, places)
    # Whoever started a worker says how to start all of them again.
    with contextlib.nullcontext() if several else _resumable(given):
        if arguments.seeds:
            return _train_seeds(recipe, arguments, given, places)
        from keras_resnet.training.trainer import train

        result = train(recipe, **places, based_on=arguments.recipe or DEFAULT_RECIPE)

    if several and place_in_environment().rank:
        return 0  # the chief tells
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    report(
        f"test accuracy {result.test.top1:.2%} (best epoch {result.best_epoch}, validation "
        f"{result.validation_accuracy:.2%}), {seconds:.0f} s, {cpu_seconds:.0f} CPU s"
    )
    files = [path.name for path in _written(RunDirectory(result.path)) if path.is_file()]
    serving = "" if result.saved_model is None else f". Serving: {result.saved_model.parent}"
    report(f"{result.path}: {', '.join(files)}{serving}")
    if arguments.json:
        summary = {
            "run": str(result.path),
            "saved_model": None if result.saved_model is None else str(result.saved_model),
            "test": result.test.to_dict(),
            "best_epoch": result.best_epoch,
            "validation_accuracy": result.validation_accuracy,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
        print(json.dumps(summary))
    if arguments.results:
        accuracy, count = result.test.top1, result.test.count
        _append_result(arguments.results, given, recipe, accuracy, count, seconds, cpu_seconds)
    return 0


@contextlib.contextmanager
def _resumable(given: list[str]) -> Iterator[None]:
    """Adds to an interrupt how to resume the training."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        again = provenance.command("train.py", without_overwrite(given))
        raise type(interrupt)(f"Interrupted. Run it again and it resumes: {again}") from None


def _check_workers(arguments: argparse.Namespace) -> bool:
    """Whether several processes train; UserError where they cannot."""
    count = arguments.workers or 1
    if arguments.restarts and not arguments.workers:
        raise UserError(f"--restarts belongs to --workers, got {arguments.restarts}. Give both, or leave it out.")
    if arguments.engine != ENGINES[0] and not arguments.workers:
        raise UserError(f"--engine belongs to --workers, got {arguments.engine!r}. Give both, or leave it out.")
    if arguments.address and arguments.engine != "ray":
        raise UserError(f"--address belongs to --engine ray, got {arguments.address!r}. Give both, or leave it out.")
    place = place_in_environment()
    if arguments.workers and place.workers > 1:
        raise UserError(
            f"--workers starts the workers, but {place.source} already names {place.workers}. Leave one of them out."
        )
    if arguments.workers == 1 and (arguments.engine != ENGINES[0] or arguments.restarts):
        raise UserError("--engine and --restarts need --workers of 2 or more, got 1. Leave them out, or raise it.")
    if max(count, place.workers) == 1:
        return False
    for flag in ("dry_run", "find_learning_rate", "seeds"):
        if getattr(arguments, flag):
            raise UserError(f"Several workers do one training, got --{flag.replace('_', '-')}, too. Leave one out.")
    return True


def _append_result(
    path: str, given: list[str], recipe: Recipe, accuracy: float, images: int, seconds: float, cpu_seconds: float
) -> None:
    append_row(
        path,
        {
            "command": provenance.command("train.py", given),
            "dataset": recipe.dataset,
            "model": recipe.model,
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "test_accuracy": f"{accuracy:.4f}",
            "test_images": images,
            "seconds": f"{seconds:.1f}",
            "cpu_seconds": f"{cpu_seconds:.1f}",
            **provenance.result_row(),
        },
    )


def _train_seeds(recipe: Recipe, arguments: argparse.Namespace, given: list[str], places: dict[str, Any]) -> int:
    if places.pop("resume"):
        raise UserError("--seeds resumes by itself what was interrupted, got --resume, too. Leave it out.")
    from keras_resnet.training.seeds import spread, train_seeds

    clock = [(time.perf_counter(), time.process_time())]

    def finished(run: Any) -> None:
        clock.append((time.perf_counter(), time.process_time()))
        # A run that was only read has its row from when it was trained: by other versions, perhaps.
        if arguments.results and not run.was_finished:
            seconds, cpu_seconds = (now - before for before, now in zip(*clock[-2:], strict=True))
            own = dataclasses.replace(recipe, seed=run.seed)
            _append_result(arguments.results, given, own, run.test_accuracy, run.test_images, seconds, cpu_seconds)

    done = train_seeds(recipe, arguments.seeds, finished=finished, **{**places, "name": arguments.name})
    mean, deviation = spread([run.test_accuracy for run in done])
    if arguments.json:
        runs = [{**dataclasses.asdict(run), "run": str(run.path)} for run in done]
        for run in runs:
            del run["path"]
        print(json.dumps({"runs": runs, "mean": mean, "standard_deviation": deviation}))
        return 0
    for run in done:
        print(
            f"seed {run.seed}: test accuracy {run.test_accuracy:.2%} (best epoch {run.best_epoch}, validation "
            f"{run.validation_accuracy:.2%}), {run.seconds:.0f} s: {run.path}"
        )
    print(f"test accuracy {mean:.2%} ± {deviation:.2%} (mean ± standard deviation of {len(done)} runs)")
    return 0


def _find_learning_rate(recipe: Recipe, arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    from keras_resnet.training.range_test import check_picture, draw, find_learning_rate

    if arguments.output:
        check_picture(arguments.output)
        check_could_write(Path(arguments.output).parent)
    found = find_learning_rate(recipe, report=report)
    if arguments.output:
        draw(found, arguments.output)
        report(f"{arguments.output}: the loss over the rate")
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(found), "picture": arguments.output}))
        return 0
    print(f"{'rate':>9}  {'loss':>8}  smoothed")
    marks = {found.suggested: "suggested", found.steepest: "steepest", found.lowest: "lowest"}
    shown = {*range(0, len(found.rates), 10), len(found.rates) - 1}
    nearest = {int(np.abs(np.log(np.divide(found.rates, rate))).argmin()): name for rate, name in marks.items()}
    for number in sorted(shown | nearest.keys()):
        line = f"{found.rates[number]:9.2g}  {found.losses[number]:8.4f}  {found.smoothed[number]:8.4f}"
        print(f"{line}  {nearest.get(number, '')}".rstrip())
    end = "the loss diverged" if found.diverged else "the highest rate"
    print(f"{len(found.rates)} updates of {recipe.model} with {recipe.optimizer}, until {end}")
    print(
        f"suggested: --learning-rate {found.suggested:.2g}, a tenth of the rate at the lowest loss "
        f"({found.lowest:.2g}); the loss fell fastest at {found.steepest:.2g}"
    )
    return 0


def _dry_run(recipe: Recipe, as_json: bool, places: dict[str, Any]) -> int:
    from keras_resnet.training.trial import try_training

    trial = try_training(recipe, **places)
    if as_json:
        print(json.dumps({**trial.to_dict(), "changed": trial.recipe.changed()}))
        return 0
    from keras_resnet.progress import duration

    data, recipe = trial.dataset, trial.recipe
    sizes = {split: f"{data[f'{split}_images']:,}" for split in ("training", "validation", "test")}
    shape = tuple(data["image_shape"])
    done = f", {trial.epochs_done} of them done" if trial.epochs_done else ""
    gpu = "" if trial.peak_gpu_bytes is None else f", on the GPU {megabytes(trial.peak_gpu_bytes)}"
    lines = [
        *settings_table(recipe),
        TABLE_HEADER.rstrip(),
        table_row(network_name(recipe.model), shape, trial.complexity).rstrip(),
        f"data: {data['name']}, {len(data['labels'])} classes; "
        + ", ".join(f"{size} {split}" for split, size in sizes.items())
        + " images",
        f"steps: {trial.steps:,} an epoch, {recipe.epochs} epochs{done}",
        f"measured in {trial.measured_steps} steps: {1000 * trial.step_seconds:.1f} ms a step with its input "
        f"({recipe.batch_size / trial.step_seconds:,.0f} images/s); input alone {1000 * trial.input_seconds:.1f} ms; "
        f"validation {1000 * trial.validation_seconds:.1f} ms a batch",
        f"estimated: {duration(trial.total_seconds)} (start {duration(trial.start_seconds)}, training "
        f"{duration(trial.training_seconds)}, validation and test {duration(trial.evaluation_seconds)}), "
        "without the export",
        f"memory: {megabytes(trial.peak_memory_bytes)} at most until here{gpu}; on disk "
        f"{megabytes(trial.disk_bytes)} at the end, {megabytes(trial.checkpoint_bytes)} of it each checkpoint",
        f"Nothing was written. Without --dry-run the run is {trial.run}.",
    ]
    print("\n".join(lines))
    return 0


def _written(run: RunDirectory) -> tuple[Path, ...]:
    """What a person looks at first; the report may be missing."""
    return run.report, run.model, run.metrics, run.test_metrics


def _recipe(arguments: argparse.Namespace) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe, and what of the file's or the named one's settings the flags left no room for."""
    settings = {}
    if arguments.recipe:
        settings = recipe_settings(arguments.recipe)
    elif arguments.resume and arguments.name:
        # `--resume --name NAME` needs no more: the run knows its settings.
        stored = RunDirectory(Path(arguments.runs) / arguments.name).recipe
        if stored.is_file():
            settings = load_settings(stored)
    prefix = "recipe."
    flags = {key.removeprefix(prefix): value for key, value in vars(arguments).items() if key.startswith(prefix)}
    return override(settings, flags)
