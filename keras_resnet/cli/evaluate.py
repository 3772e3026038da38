"""`evaluate.py`: exact metrics of a model over every example of a split."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import entry
from keras_resnet.errors import UserError
from keras_resnet.storage import read_json, write_json

SPLITS = ("train", "validation", "test")


def build_parser() -> entry.Parser:
    """Returns the parser."""
    parser = entry.Parser(prog="evaluate.py", description="Evaluates a model on every example of a split.")
    parser.add_argument("model", help="run directory, .keras file, SavedModel or .tflite file")
    parser.add_argument("--dataset", help="data set; default: the one that the run was trained on")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the data set")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which examples")
    parser.add_argument("--batch-size", type=int, default=128, help="examples at a time")
    parser.add_argument("--bad-images", choices=("stop", "skip"), default="stop", help="unreadable images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, for data sets that have none")
    parser.add_argument(
        "--output", metavar="FILE.json", help="where to write the metrics; default: evaluation.json in the run"
    )
    parser.add_argument("--json", action="store_true", default=False, help="one JSON object instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and returns the exit code."""
    return entry.run(_evaluate, build_parser(), argv)


def _evaluate(arguments: argparse.Namespace) -> int:
    model = Path(arguments.model)
    settings = _settings_of_run(model)
    dataset = getattr(arguments, "dataset", None) or settings.get("dataset")
    if dataset is None:
        raise UserError(f"{model} is no run directory, so --dataset must say what to evaluate on.")
    entry.check_data_set(dataset)
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}.")
    same_data = dataset == settings.get("dataset")

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
    from keras_resnet.data.sources import load_source
    from keras_resnet.evaluation import evaluate_model, table
    from keras_resnet.prediction import load_predictor

    predictor = load_predictor(model)
    data = load_source(
        dataset,
        data_dir=getattr(arguments, "data_dir", None) or (settings.get("data_dir") if same_data else None),
        image_size=predictor.preprocessing.height,
        # A split that is drawn must be drawn as in training, or trained images would be tested.
        seed=settings["seed"] if same_data else arguments.seed,
        bad_images=settings["bad_images"] if same_data else arguments.bad_images,
    )
    if not data.has_classes(predictor.labels):
        raise UserError(
            f"The model's classes ({_shortened(predictor.labels)}) are not the data set's ({_shortened(data.labels)})."
        )
    evaluation = evaluate_model(predictor, getattr(data, arguments.split), batch_size=arguments.batch_size)
    record = {"model": str(model), "dataset": dataset, "split": arguments.split, **evaluation.to_dict()}
    output = getattr(arguments, "output", None) or (model / "evaluation.json" if settings else None)
    if output is not None:
        write_json(output, record)
    if arguments.json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(table(evaluation))
        if output is not None:
            print(f"\nwritten to {output}")
    return 0


def _settings_of_run(path: Path) -> dict:
    recipe = path / "recipe.json"
    if not recipe.is_file():
        return {}
    record = read_json(recipe)
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict):
        raise UserError(f"{recipe} is no run's recipe.")
    return {"seed": 0, "bad_images": "stop", **settings}


def _shortened(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (f", … {len(labels)} in all" if len(labels) > 5 else "")
