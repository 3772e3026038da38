"""`export.py`: a trained network as SavedModel, .tflite files, ONNX or OpenVINO, each checked against its source."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script
from keras_resnet.cli.examples import dataset_name, load_examples
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.export.formats import (
    FORMATS,
    HEATMAPS,
    IO_TYPES,
    QUANTIZERS,
    ExportSettings,
    check_formats,
    default_formats,
    needs_calibration,
)
from keras_resnet.storage import read_json


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="export.py",
        description="Exports a network and compares every artifact with it. Exit code 1: an artifact was beyond its "
        "limits and not kept.",
    )
    parser.add_argument("model", help="run directory, .keras file, or a name of the model table with --weights")
    parser.add_argument("--weights", help="for a name: a tag of the catalogue ('imagenet') or a file")
    parser.add_argument("--output", metavar="FOLDER", help="where to; default: saved_models/NAME of the model")
    parser.add_argument(
        "--formats",
        default=",".join(default_formats()),
        metavar="A,B",
        help=f"any of {', '.join(FORMATS)}; or all",
    )
    parser.add_argument("--preprocessing", metavar="FILE.json", help="for a model that has none")
    parser.add_argument("--dataset", help="data set for calibration and ledger; default: the run's")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the data set")
    parser.add_argument(
        "--calibration", type=script.positive_int, default=200, metavar="N", help="training images to calibrate with"
    )
    parser.add_argument(
        "--parity", type=script.positive_int, default=500, metavar="N", help="validation images of the ledger"
    )
    parser.add_argument(
        "--parity-images",
        metavar="FOLDER",
        help="images of the ledger instead; subfolders named as classes label them",
    )
    parser.add_argument(
        "--quantizer",
        choices=QUANTIZERS,
        default="converter",
        help="of int8 and dynamic; litert needs --io-type int8",
    )
    parser.add_argument("--batch", default="1", metavar="N|dynamic", help="batch of the .tflite files")
    parser.add_argument("--io-type", choices=IO_TYPES, default="uint8", help="input and output of int8")
    parser.add_argument(
        "--with-heatmap",
        nargs="?",
        const="top",
        default="none",
        choices=HEATMAPS,
        help="add the heat map of the most probable class, or of the class that a second input names",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn images")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--allow-drop", action="store_true", help="keep artifacts beyond their limits")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exports and returns the exit code."""
    return script.run(_export, build_parser(), argv)


def _export(arguments: argparse.Namespace) -> int:
    formats = _formats(arguments.formats)
    settings = ExportSettings(
        heatmap=arguments.with_heatmap,
        quantizer=arguments.quantizer,
        batch=_batch(arguments.batch),
        io_type=arguments.io_type,
    )
    model_file = _model_file(arguments)
    given = arguments.parity_images
    dataset = None
    # Images of a folder are enough to compare with, but not to calibrate with.
    if given is None or needs_calibration(formats) or arguments.dataset:
        dataset = dataset_name(arguments, "which images to calibrate and compare with")
    if given is not None and not Path(given).is_dir():
        raise UserError(f"--parity-images must be a folder, got {given!r}.")
    output = Path(arguments.output or Path("saved_models") / _name(arguments.model))
    if output.exists() and not arguments.overwrite:
        raise UserError(f"{output} exists already. Name another --output or allow --overwrite.")

    from keras_resnet.backends import require_tensorflow

    require_tensorflow("An export")
    from keras_resnet.data.reading import sample_images
    from keras_resnet.export.exporter import export

    artifact = _artifact(arguments, model_file)
    preprocessing = artifact.preprocessing
    calibration = parity = None
    if dataset is not None:
        data = load_examples(
            arguments,
            dataset,
            image_size=preprocessing.height,
            labels=artifact.labels,
        )
        if needs_calibration(formats):
            calibration = sample_images(data.train, preprocessing, arguments.calibration, arguments.seed)
        if given is None:
            parity = sample_images(data.validation, preprocessing, arguments.parity, arguments.seed)
    if given is not None:
        parity = _images_of(Path(given), preprocessing, arguments.parity)
    report = export(
        artifact,
        output,
        formats=formats,
        calibration=calibration,
        parity=parity,
        settings=settings,
        overwrite=arguments.overwrite,
        allow_drop=arguments.allow_drop,
        show_progress=True,
    )
    if arguments.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        print(report.table())
        print(f"\nwritten to {report.directory} in {report.seconds:,.0f} s")
    for sentence in report.rejected:
        print(f"error: Not kept: {sentence}. Allow it with --allow-drop.", file=sys.stderr)
    return 1 if report.rejected else 0


def _formats(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(FORMATS)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in FORMATS:
            raise unknown_name("format", name, (*FORMATS, "all"))
    check_formats(names)
    return names


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UserError(f"--batch is a whole number of at least 1, or 'dynamic', got {text!r}.")
    return int(text)


def _name(model: str) -> str:
    path = Path(model)
    return path.stem if path.suffix == ".keras" else path.name


def _model_file(arguments: argparse.Namespace) -> Path | None:
    """Returns the .keras file that is meant; None for a name of the model table."""
    from keras_resnet.models.registry import REGISTRY

    path = Path(arguments.model)
    if arguments.model in REGISTRY and not path.exists():
        if not arguments.weights:
            raise UserError(f"An untrained network is not exported: name weights of {arguments.model} by --weights.")
        return None
    if arguments.weights:
        raise UserError(f"--weights goes with a name of the model table, got {arguments.model!r}.")
    if path.is_dir():
        if not (path / "model.keras").is_file():
            raise UserError(f"{path} holds no model.keras. Give a run directory or a .keras file.")
        return path / "model.keras"
    if not path.exists():
        if path.suffix == ".keras" or len(path.parts) > 1:
            raise UserError(f"There is no run directory and no model file {path}.")
        raise unknown_name("model", arguments.model, REGISTRY)
    return path


def _artifact(arguments: argparse.Namespace, model_file: Path | None):
    """The network with its preprocessing, from a file or from the model table."""
    from keras_resnet.applications import create_model
    from keras_resnet.artifact import artifact_of
    from keras_resnet.data.preprocessing import Preprocessing
    from keras_resnet.models.registry import get_config
    from keras_resnet.storage import load_model, read_config
    from keras_resnet.weights.loading import learnt_preprocessing

    if model_file is None:
        model = create_model(arguments.model, weights=arguments.weights)
        preprocessing, config = learnt_preprocessing(model, arguments.weights), get_config(arguments.model)
    else:
        (model, preprocessing), config = load_model(model_file), read_config(model_file)
    if arguments.preprocessing:
        given = Preprocessing.from_dict(read_json(arguments.preprocessing))
        if preprocessing is not None and given.fingerprint() != preprocessing.fingerprint():
            raise UserError(
                f"{arguments.model} was trained with another preprocessing than {arguments.preprocessing} says: "
                f"{preprocessing.difference(given)}. Leave --preprocessing out."
            )
        preprocessing = given
    if preprocessing is None:
        raise UserError(f"{arguments.model} has no preprocessing. Give --preprocessing FILE.json.")
    return artifact_of(model, preprocessing, config=config)


def _images_of(folder: Path, preprocessing, count: int):
    import numpy as np

    from keras_resnet.data.images import image_files, read_image
    from keras_resnet.data.transforms import resize_image

    files = []
    for file, problem in image_files([folder]):
        if problem is not None:
            raise UserError(problem)
        files.append(Path(file))
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).astype(int))]
    images = np.stack(
        [np.asarray(resize_image(read_image(path, preprocessing.channels), preprocessing)) for path in chosen]
    )
    classes = {label: index for index, label in enumerate(preprocessing.labels)}
    labels = [classes.get(path.parent.name) for path in chosen]
    return images, None if None in labels else np.array(labels, np.int32)
