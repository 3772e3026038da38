"""`evaluate.py`: exact metrics of a model over every example of a split."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.choices import BAD_IMAGES, SPLITS
from keras_resnet.cli import script
from keras_resnet.cli.examples import dataset_name, load_examples, settings_of_run
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import write_json


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(prog="evaluate.py", description="Evaluates a model on every example of a split.")
    parser.add_argument("model", help="run directory, .keras file, SavedModel or .tflite file")
    parser.add_argument("--dataset", help="data set; default: the one that the run was trained on")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the data set")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which examples")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="examples at a time")
    parser.add_argument("--bad-images", choices=BAD_IMAGES, default="stop", help="unreadable images")
    parser.add_argument("--rescan", action="store_true", help="check every file of a folder anew")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, for data sets that have none")
    parser.add_argument(
        "--output", metavar="FILE.json", help="where to write the metrics; default: evaluation.json in the run"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and returns the exit code."""
    return script.run(_evaluate, build_parser(), argv)


def _evaluate(arguments: argparse.Namespace) -> int:
    model = Path(arguments.model)
    if not model.exists():
        raise UserError(f"There is no model at {model}. Give a run directory, .keras, SavedModel or .tflite.")
    dataset = dataset_name(arguments, "what to evaluate on")

    from keras_resnet.backends import require_backend

    require_backend()
    from keras_resnet.artifact import load_artifact
    from keras_resnet.evaluation import evaluate_model, table

    if arguments.rescan:
        from keras_resnet.data.folder import forget_scan

        forget_scan(dataset)
    artifact = load_artifact(model)
    data = load_examples(
        arguments,
        dataset,
        image_size=artifact.preprocessing.height,
        labels=artifact.labels,
        bad_images=arguments.bad_images,
    )
    split = getattr(data, arguments.split)
    progress = ProgressBar()
    progress.begin("evaluating", len(split))
    evaluation = evaluate_model(artifact.folded(), split, batch_size=arguments.batch_size, progress=progress.step)
    progress.clear()
    record = {"model": str(model), "dataset": dataset, "split": arguments.split, **evaluation.to_dict()}
    output = arguments.output or (model / "evaluation.json" if settings_of_run(model) else None)
    if output is not None:
        write_json(output, record)
    if arguments.json:
        print(json.dumps(record, ensure_ascii=False))
    else:
        print(table(evaluation))
        if output is not None:
            print(f"\nwritten to {output}")
    return 0
