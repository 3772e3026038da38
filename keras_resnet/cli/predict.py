"""`predict.py`: label and probability for image files and folders of them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="predict.py",
        description="Prints label and probability for each image. A file that cannot be read is reported, the "
        "others are done, and the exit code is 2.",
    )
    parser.add_argument("model", help="run directory, .keras file, SavedModel or .tflite file")
    parser.add_argument("images", nargs="+", metavar="image", help="image files and folders of them")
    parser.add_argument("--top", type=script.positive_int, default=1, metavar="K", help="how many labels a file gets")
    parser.add_argument(
        "--batch-size", type=script.positive_int, help="images at a time; default: as many as are fastest"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for all files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predicts and returns the exit code."""
    return script.run(_predict, build_parser(), argv)


def _predict(arguments: argparse.Namespace) -> int:
    from keras_resnet.artifact import RUNTIMES, load_artifact
    from keras_resnet.backends import require_backend
    from keras_resnet.prediction import predict_images

    if Path(arguments.model).suffix not in RUNTIMES:  # files that need neither Keras nor what it runs on
        require_backend()
    artifact = load_artifact(arguments.model)
    predictions = predict_images(artifact, arguments.images, top=arguments.top, batch_size=arguments.batch_size)
    done = []
    for prediction in predictions:
        done.append(prediction)
        if prediction.error is not None:
            print(f"error: {prediction.error}", file=sys.stderr)
        elif not arguments.json:
            classes = "  ".join(f"{label} {probability:.2%}" for label, probability in prediction.classes)
            print(f"{prediction.file}  {classes}", flush=True)
    if arguments.json:
        print(json.dumps({"predictions": [prediction.to_dict() for prediction in done]}, ensure_ascii=False))
    return 2 if any(prediction.error is not None for prediction in done) else 0
