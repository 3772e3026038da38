"""`explain.py`: heat maps over images, their scores, and the gallery of a run."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from keras_resnet import provenance
from keras_resnet.choices import COMBINATIONS, MAXIMIZE, SMOOTHINGS, SPLITS
from keras_resnet.cli import script
from keras_resnet.cli.examples import dataset_name, load_examples
from keras_resnet.errors import UserError
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import append_row, check_writable, write_text


def build_parser() -> script.Parser:
    """Returns the parser."""
    parser = script.Parser(
        prog="explain.py",
        description="Draws where in each image a network finds its evidence. A file that cannot be read is reported, "
        "the others are done, and the exit code is 2.",
    )
    parser.add_argument(
        "model",
        help="run directory, .keras file, or keras.applications:NAME[=WEIGHTS.h5], for example "
        "keras.applications:ResNet50",
    )
    parser.add_argument("images", nargs="*", default=[], metavar="image", help="image files and folders of them")
    maps = parser.add_argument_group("maps")
    maps.add_argument(
        "--method",
        default="gradcam",
        metavar="NAME[,NAME…]",
        help=f"methods (--list names them); 'all': each idea once; '{MAXIMIZE}' draws an image that excites --target",
    )
    maps.add_argument("--target", default="predicted", help="predicted, top3, or a class by name or number")
    maps.add_argument("--layer", default="features", metavar="NAME[,NAME…]", help="layers to draw on")
    maps.add_argument("--combine", choices=COMBINATIONS, default="mean", help="how several layers' maps become one")
    maps.add_argument("--smooth", choices=SMOOTHINGS, default="none", help="test-time smoothing")
    maps.add_argument(
        "--steps", type=script.positive_int, metavar="N", help="steps of integrated gradients (32), or of drawing (100)"
    )
    maps.add_argument("--seed", type=int, default=0, help="seed of noise and of drawing")
    maps.add_argument("--batch-size", type=script.positive_int, default=32, help="images at a time")
    maps.add_argument(
        "--max-batch", type=script.positive_int, default=64, metavar="N",
        help="changed images in one pass at most, which bounds the memory of Score-CAM, Ablation-CAM and occlusion",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--output", default="explanations", metavar="FOLDER", help="where files are written")
    output.add_argument("--grid", action="store_true", help="methods × images on one sheet, too")
    output.add_argument("--npy", action="store_true", help="maps as .npy arrays, too")
    output.add_argument("--json", action="store_true", help="one JSON object on standard output")
    output.add_argument("--list", action="store_true", help="name the methods and the model's layers")
    scores = parser.add_argument_group("scores and gallery")
    scores.add_argument("--score", action="store_true", help="score the methods beside two baselines")
    scores.add_argument("--gallery", action="store_true", help="one HTML page: what the model looks at")
    scores.add_argument("--dataset", help="examples to score or show; default: those that the run was trained on")
    scores.add_argument("--data-dir", metavar="FOLDER", help="folder of the data set")
    scores.add_argument("--split", choices=SPLITS, default="test", help="which examples")
    scores.add_argument(
        "--limit", type=script.positive_int, default=128, metavar="N", help="examples to score, spread over the split"
    )
    scores.add_argument("--results", metavar="FILE.csv", help="append a row for each scored method to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Explains and returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return script.run(lambda arguments: _explain(arguments, given), build_parser(), given)


def _explain(arguments: argparse.Namespace, given: list[str]) -> int:
    if arguments.dataset:
        script.check_data_set(arguments.dataset)
    drawn = MAXIMIZE in arguments.method.split(",")
    if not (arguments.images or arguments.score or arguments.gallery or arguments.list or drawn):
        raise UserError("Nothing to explain: give image files or folders, or --score, --gallery or --list.")

    from keras_resnet.backends import require_backend

    require_backend()
    from keras_resnet.artifact import load_network
    from keras_resnet.explanation.classifier import prepare

    methods = _methods(arguments.method)
    artifact = load_network(arguments.model)
    classifier = prepare(artifact.model)
    layers = arguments.layer.split(",")
    for layer in layers:
        classifier.layer_name(layer)
    if arguments.list:
        return _list(classifier)
    target = _target(arguments.target, classifier, artifact)
    check_writable(arguments.output)
    options = {"max_batch": arguments.max_batch, "batch_size": arguments.batch_size, "smooth": arguments.smooth}
    if arguments.steps:
        options["steps"] = arguments.steps

    record: dict = {"model": arguments.model}
    failed = False
    if drawn:
        record["drawn"] = _draw_class(arguments, artifact, target)
    if arguments.images and methods and not arguments.score:
        record["images"], failed = _draw(arguments, artifact, methods, layers, target, options)
    if arguments.score:
        scored, failed = _score(arguments, given, artifact, methods, layers, target, options)
        record |= scored
    if arguments.gallery:
        record["gallery"] = _gallery(arguments, artifact, methods, layers, options)
    if arguments.json:
        print(json.dumps(record, ensure_ascii=False))
    return 2 if failed else 0


def _methods(text: str) -> list[str]:
    from keras_resnet.explanation.methods import DISTINCT, METHODS, get_method

    names = []
    for name in text.split(","):
        if name == MAXIMIZE:
            continue
        if name == "all":
            names += [name for name in DISTINCT if METHODS[name].is_usable]
        else:
            get_method(name)
            names.append(name)
    return list(dict.fromkeys(names))


def _list(classifier) -> int:
    from keras_resnet.explanation.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
        if not method.is_usable:
            continue
        print(f"{name:<{width}}  {method.title} ({method.source})")
    print("\nlayers: " + ", ".join(classifier.spatial_layers()))
    return 0


def _target(text: str, classifier, artifact):
    """The target for every image: None (predicted), "top3" or a class number."""
    from keras_resnet.explanation.classifier import resolve_targets

    if text == "top3":
        return text
    number = int(resolve_targets([text], classifier.classes, 1, artifact.labels)[0])
    return None if number < 0 else number


def _draw(arguments, artifact, methods, layers, target, options) -> tuple[list[dict], bool]:
    """Draws the files; returns what was written and whether a file was bad."""
    from keras_resnet.explanation.files import SHEET, explain_files
    from keras_resnet.explanation.inputs import UnreadableImage

    written, failed = [], False
    for found in explain_files(
        artifact, arguments.images, arguments.output, methods=methods, target=target, layers=layers,
        with_sheet=arguments.grid, with_arrays=arguments.npy, progress=ProgressBar(),
        combine=arguments.combine, seed=arguments.seed, **options,
    ):  # fmt: skip
        if isinstance(found, UnreadableImage):
            failed = True
            print(f"error: {found.error}", file=sys.stderr)
            written.append({"file": str(found.file), "error": found.error})
            continue
        row = {
            "file": str(found.file), "class": found.label, "probability": found.probability, "method": found.method,
            "constant": found.is_constant, "overlay": str(found.overlay),
        }  # fmt: skip
        if found.array is not None:
            row["array"] = str(found.array)
        written.append(row)
        if not arguments.json:
            note = "  constant map: nothing stands out" if found.is_constant else ""
            print(f"{found.file}  {found.caption}  {found.method}  {found.overlay}{note}", flush=True)
    sheet = Path(arguments.output) / SHEET
    if arguments.grid and any("overlay" in row for row in written):
        written.append({"grid": str(sheet)})
        if not arguments.json:
            print(sheet)
    return written, failed


def _draw_class(arguments, artifact, target) -> dict:
    from keras_resnet.explanation.files import draw_class

    if not isinstance(target, int):
        raise UserError(f"--method {MAXIMIZE} draws one class: name it with --target CLASS.")
    drawn = draw_class(
        artifact, target, arguments.output, steps=arguments.steps or 100, seed=arguments.seed, progress=ProgressBar()
    )
    if not arguments.json:
        print(f"{drawn.label}: the drawn image is classified as it with {drawn.probability:.1%}  {drawn.overlay}")
    return {"class": drawn.label, "probability": drawn.probability, "image": str(drawn.overlay)}


def _examples(arguments, artifact):
    """The data set's split that --dataset or the run names, and its name."""
    name = dataset_name(arguments, "which examples to take")
    data = load_examples(
        arguments,
        name,
        image_size=artifact.preprocessing.height,
        labels=artifact.labels,
        bad_images="skip",
    )
    return getattr(data, arguments.split), name


def _score(arguments, given, artifact, methods, layers, target, options) -> tuple[dict, bool]:
    import numpy as np

    from keras_resnet.data.feeding import examples_at, normalize
    from keras_resnet.explanation.inputs import read_inputs, split_masks, spread
    from keras_resnet.explanation.scoring import SCORES, score_methods

    if target == "top3":
        raise UserError("--score needs one target per image: use --target predicted or a class.")
    masks = marks = None
    unreadable = []
    began = time.perf_counter()
    if arguments.images:
        inputs, unreadable = read_inputs(arguments.images, artifact, arguments.limit)
        for image in unreadable:
            print(f"error: {image.error}", file=sys.stderr)
        source = "files"
    else:
        split, source = _examples(arguments, artifact)
        positions = spread(len(split), arguments.limit)
        pixels, _ = examples_at(split, artifact.preprocessing, positions)
        masks, marks = split_masks(split, positions, artifact)
        inputs = normalize(pixels, artifact.preprocessing)
    scores = score_methods(
        artifact.model, inputs, target, methods or ["gradcam"],
        layer=layers if len(layers) > 1 else layers[0], masks=masks, mark_masks=marks, seed=arguments.seed,
        combine=arguments.combine, **options,
        show_progress=True,
    )  # fmt: skip
    if not arguments.json:
        _print_scores(scores)
    if arguments.results:
        for score in scores:
            row = {
                "command": provenance.command("explain.py", given),
                "model": artifact.model.name,
                "data": source,
                "images": len(inputs),
                "layer": "+".join(layers),
                "method": score.method,
            }
            for name in SCORES:
                known = name in score.per_image and not np.isnan(score.mean(name))
                row[name] = f"{score.mean(name):.4f}" if known else ""
                row[f"{name}_se"] = f"{score.standard_error(name):.4f}" if known else ""
            row["ms_per_image"] = f"{score.seconds_per_image * 1000:.2f}"
            row["constant_maps"] = score.constant
            append_row(arguments.results, {**row, **provenance.result_row()})
    record = {
        "data": source,
        "count": len(inputs),
        "seconds": time.perf_counter() - began,
        "scores": [score.to_dict() for score in scores],
    }
    return record, bool(unreadable)


def _print_scores(scores) -> None:
    from keras_resnet.explanation.scoring import LOWER_IS_BETTER

    columns = list(scores[0].per_image)
    print(f"{'method':24}" + "".join(f"{name + (' ↓' if name in LOWER_IS_BETTER else ' ↑'):>16}" for name in columns)
          + f"{'ms/image':>10}")  # fmt: skip
    for score in scores:
        cells = "".join(f"{score.mean(name):>8.3f} ±{score.standard_error(name):6.3f}" for name in columns)
        note = f"  {score.constant} constant" if score.constant else ""
        print(f"{score.method:24}{cells}{score.seconds_per_image * 1000:>10.1f}{note}")


def _gallery(arguments, artifact, methods, layers, options) -> str:
    from keras_resnet.explanation.gallery import make_gallery

    if len(methods) > 1 or len(layers) > 1:
        raise UserError("--gallery draws one method on one layer. Give one --method and one --layer.")
    split, name = _examples(arguments, artifact)
    page = make_gallery(
        artifact, split, title=f"What {artifact.model.name} looks at: {name}", seed=arguments.seed,
        method=methods[0] if methods else "gradcam", layer=layers[0], scored=min(arguments.limit, 64),
        show_progress=True, **options,
    )  # fmt: skip
    run = Path(arguments.model)
    file = (run if run.is_dir() and arguments.output == "explanations" else Path(arguments.output)) / "gallery.html"
    write_text(file, page)
    if not arguments.json:
        print(file)
    return str(file)
