"""report.html in a run directory: what came out of a training, on one page that holds all it shows."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resnet.artifact import Artifact, load_artifact
from keras_resnet.backends import has_tensorflow
from keras_resnet.data.feeding import examples_at, normalize
from keras_resnet.errors import UserError
from keras_resnet.evaluation import calibration_bins, predict_split
from keras_resnet.explanation.cards import colour_bar, describe_examples, draw_card
from keras_resnet.explanation.methods import explain
from keras_resnet.models.config_files import is_config_file
from keras_resnet.pages import embedded, render_page
from keras_resnet.progress import duration
from keras_resnet.storage import write_text
from keras_resnet.training.figures import Curve, line_chart, reliability_diagram
from keras_resnet.training.named_recipes import RECIPES
from keras_resnet.training.recipes import Recipe
from keras_resnet.training.records import RunRecord, changed_settings, read_record, repeating_command
from keras_resnet.training.runs import RunDirectory
from keras_resnet.training.setup import Setup, load_splits
from keras_resnet.training.timing import measure_input, median_rate, parts_of_time

if TYPE_CHECKING:
    from keras_resnet.data.dataset import DatasetSpec

# Up to here the confusion matrix can be read; beyond it the most confused pairs are listed.
MATRIX_CLASSES = 25
PAIRS = 12
MISTAKES = 12
_METHOD = "gradcam"


def write_report(
    run: RunDirectory,
    *,
    artifact: Artifact,
    data: "DatasetSpec",
    predictions: tuple[np.ndarray, np.ndarray],
    metrics: Mapping[str, Any],
) -> None:
    """Writes the page of a run whose epochs are complete.

    Args:
        run: The run directory, with recipe.json and metrics.csv.
        artifact: The network that was kept.
        data: The run's data set.
        predictions: Probabilities and labels of the test split, from `keras_resnet.evaluation.predict_split`.
        metrics: What test_metrics.json holds or will hold.

    Raises:
        UserError: The page cannot be written.
    """
    record = dataclasses.replace(read_record(run.path), metrics=dict(metrics))
    write_text(run.report, _page(record, artifact, data, *predictions))


def report_if_possible(
    run: RunDirectory,
    setup: Setup,
    *,
    artifact: Artifact,
    predictions: tuple[np.ndarray, np.ndarray],
    metrics: dict[str, Any],
    report: Callable[[str], None],
) -> None:
    """Writes the page at the end of a training; where that fails, a line says so and the training ends well.

    Args:
        run: The run directory.
        setup: What the training started with.
        artifact: The network that was kept.
        predictions: As for `write_report`.
        metrics: What test_metrics.json will hold; the input's rate is added to it.
        report: Takes the line.
    """
    try:
        batches = setup.batches(epochs=1_000_000)  # without end: the measurement ends by time
        metrics["input_images_per_second"] = measure_input(batches)
        write_report(run, artifact=artifact, data=setup.data, predictions=predictions, metrics=metrics)
    except Exception as error:  # a full disk, a picture that cannot be drawn: no reason to lose a training
        described = " ".join(str(error).split()) or type(error).__name__
        again = f"python -m keras_resnet report {shlex.quote(str(run.path))}"
        report(f"report.html was not written ({described}). Try again: {again}")


def rewrite_report(path: str | os.PathLike[str]) -> RunRecord:
    """Writes the page of a finished run anew, from its directory and its data set.

    Args:
        path: The run directory.

    Returns:
        What the directory says.

    Raises:
        UserError: It is no run or an unfinished one, or its data set is gone or has changed.
    """
    record = read_record(path)
    if record.metrics is None:
        raise UserError(f"A report is of a finished run, {path} is unfinished. Run its training again to finish it.")
    settings = record.settings
    artifact = load_artifact(record.run.path)
    try:
        data = load_splits(Recipe.from_dict(settings))
    except UserError as error:
        raise UserError(f"A report needs the run's data set {settings['dataset']}. {error}") from None
    if data.fingerprint != record.dataset.get("fingerprint"):
        raise UserError(
            f"A report needs the data that the run was trained on; {settings['dataset']} has changed since (another "
            "fingerprint). Restore it."
        )
    predictions = predict_split(artifact, data.test)
    write_report(record.run, artifact=artifact, data=data, predictions=predictions, metrics=record.metrics)
    return record


def most_confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions of the wrong answers with the highest probability, the highest first.

    Args:
        probabilities: float [N, classes].
        labels: int [N], the true classes.
        count: How many at most.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:count]


def most_confused_pairs(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Returns (true class, predicted class, examples) of the largest entries beside the diagonal, the largest first.

    Args:
        confusion: int [classes, classes]; a row for each true class.
        count: How many at most; entries of 0 are none.
    """
    mistakes = np.array(confusion)
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [(int(true), int(said), int(mistakes[true, said])) for true, said in pairs if mistakes[true, said]]


def _page(
    record: RunRecord, artifact: Artifact, data: "DatasetSpec", probabilities: np.ndarray, labels: np.ndarray
) -> str:
    metrics, names = record.metrics, artifact.labels
    confusion = np.array(metrics["confusion"])
    return render_page(
        "report.html.jinja",
        title=record.name,
        subtitle=f"{record.network_name} on {record.settings['dataset']}",
        tiles=_tiles(record, artifact),
        curves=_curves(record),
        names=names,
        confusion=_matrix(confusion, names) if len(names) <= MATRIX_CLASSES else None,
        pairs=[
            {"true": names[true], "said": names[said], "count": number, "share": number / confusion[true].sum()}
            for true, said, number in most_confused_pairs(confusion, PAIRS)
        ],
        classes=metrics["per_class"],
        lowest=sorted(metrics["per_class"], key=lambda score: 2 if score["recall"] is None else score["recall"])[:15]
        if len(names) > MATRIX_CLASSES
        else None,
        ece=metrics["ece"],
        reliability=reliability_diagram(
            calibration_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels),
            alternative="accuracy over confidence",
        ),
        mistakes=_mistakes(artifact, data, probabilities, labels),
        wrong=int((probabilities.argmax(axis=1) != labels).sum()),
        bar=colour_bar(),
        augmentation=_augmentation(record, artifact, data),
        based_on=record.based_on,
        is_named=record.based_on in RECIPES,
        changed=changed_settings(record),
        settings=record.settings,
        facts=_facts(record),
        time=_time(record),
        command=repeating_command(record),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _tiles(record: RunRecord, artifact: Artifact) -> list[tuple[str, str, str]]:
    """(heading, figure, explanation) of what a reader wants to know first."""
    metrics, dataset = record.metrics, record.dataset
    # What it is made of is said of a network that no table has.
    own = is_config_file(record.settings["model"]) and record.network.get("paper")
    origin = f"{own}; " if own else ""
    right = round(metrics["top1"] * metrics["count"])
    sizes = ", ".join(f"{dataset[f'{split}_images']:,} {split}" for split in ("training", "validation", "test"))
    return [
        ("Test accuracy", f"{metrics['top1']:.2%}", f"{right:,} of {metrics['count']:,} images right"),
        (
            "Best epoch",
            f"{metrics['best_epoch']} of {len(record.epochs)}",
            f"validation accuracy {metrics['validation_accuracy']:.2%}",
        ),
        (
            "Training time",
            duration(metrics["training_seconds"]),
            f"{duration(metrics['training_cpu_seconds'])} of processor time",
        ),
        ("Network", record.network_name, f"{origin}{artifact.model.count_params():,} parameters"),
        ("Data set", dataset["name"], f"{len(artifact.labels)} classes; {sizes} images"),
    ]


def _curves(record: RunRecord) -> list[dict[str, Any]]:
    epochs, best = record.column("epoch"), record.best_epoch - 1

    def chart(title: str, training: str, validation: str | None = None, *, percent: bool = False) -> dict[str, Any]:
        curves = [Curve(epochs, record.column(training), series=0)]
        if validation:
            curves.append(Curve(epochs, record.column(validation), series=1, marked=best))
        described = f"{title} over {len(epochs)} epochs"
        return {
            "title": title,
            "svg": line_chart(curves, x_label="epoch", alternative=described, percent=percent, whole=True),
            "has_key": bool(validation),
        }

    return [
        chart("Loss", "loss", "val_loss"),
        chart("Accuracy", "accuracy", "val_accuracy", percent=True),
        chart("Learning rate", "learning_rate"),
    ]


def _matrix(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return {
        "is_upright": max(map(len, names)) > 3,
        "rows": [
            [{"count": int(count), "share": float(share)} for count, share in zip(*row, strict=True)]
            for row in zip(confusion, confusion / totals, strict=True)
        ],
    }


def _mistakes(
    artifact: Artifact, data: "DatasetSpec", probabilities: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    positions = most_confident_mistakes(probabilities, labels, MISTAKES)
    if not len(positions):
        return []
    examples = describe_examples(probabilities, labels, positions)
    pixels, _ = examples_at(data.test, artifact.preprocessing, positions)
    inputs = normalize(pixels, artifact.preprocessing)
    # Both classes in one pass: each image twice.
    targets = [example.predicted for example in examples] + [example.true for example in examples]
    maps = explain(artifact.model, np.concatenate([inputs, inputs]), targets, _METHOD)
    for_predicted, for_true = np.split(maps, 2)
    return [draw_card(artifact.labels, *row) for row in zip(examples, pixels, for_predicted, for_true, strict=True)]


def _augmentation(record: RunRecord, artifact: Artifact, data: "DatasetSpec") -> dict[str, Any] | None:
    chosen = record.settings["augmentation"]
    text = data.augmentation if chosen == "default" else chosen
    if text == "none" or not has_tensorflow():  # the sheet is drawn with the operators of tf.data
        return None
    from keras_resnet.data.sheets import draw_augmentation

    sheet = draw_augmentation(data.train, artifact.preprocessing, text, seed=record.settings["seed"])
    return {"name": text, "sheet": embedded(sheet, f"training images under the augmentation {text}")}


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    facts = [(package, version) for package, version in record.versions.items() if version]
    facts += [("backend", record.backend), ("hardware", record.hardware), ("commit", record.commit)]
    facts += [("data fingerprint", record.dataset.get("fingerprint", "")[:16])]
    return [(name, text) for name, text in facts if text]


def _time(record: RunRecord) -> dict[str, Any]:
    parts = parts_of_time(record)
    total = sum(part.seconds for part in parts)
    alone, together = record.metrics.get("input_images_per_second"), median_rate(record)
    return {
        "parts": [
            {"part": part, "share": part.seconds / total if total else 0.0, "series": number}
            for number, part in enumerate(parts)
        ],
        "training_rate": together,
        "input_rate": alone,
    }
