"""`explain.py`: heat maps over images, their scores, and the gallery of a run."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_resnet import provenance
from keras_resnet.cli import script
from keras_resnet.cli.examples import dataset_name, load_examples
from keras_resnet.errors import UserError
from keras_resnet.progress import Progress
from keras_resnet.storage import append_row, check_writable, write_text

MAXIMIZE = "activation_maximization"
SMOOTHINGS = ("none", "flips", "flips+scales")
COMBINATIONS = ("mean", "max", "product")


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
    scores.add_argument("--split", choices=("train", "validation", "test"), default="test", help="which examples")
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

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
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
        record["drawn"] = _maximize(arguments, artifact, target)
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
    from keras_resnet.explanation.methods import DISTINCT, get_method

    names = []
    for name in text.split(","):
        if name == MAXIMIZE:
            continue
        if name == "all":
            names += DISTINCT
        else:
            get_method(name)
            names.append(name)
    return list(dict.fromkeys(names))


def _list(classifier) -> int:
    from keras_resnet.explanation.methods import METHODS

    width = max(map(len, METHODS))
    for name, method in METHODS.items():
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
    """Draws an overlay for every image, target and method; returns what was written and whether a file was bad."""
    import numpy as np

    from keras_resnet.explanation.classifier import prepare
    from keras_resnet.explanation.inputs import place_maps
    from keras_resnet.explanation.methods import explain, get_method, is_constant
    from keras_resnet.explanation.overlay import draw_overlay, draw_sheet, png
    from keras_resnet.storage import atomic_file

    folder = Path(arguments.output)
    written, failed, taken = [], False, set()
    sheet: list[tuple] = []
    progress = Progress()
    for batch in _batches(arguments.images, artifact, arguments.batch_size):
        good = [(path, *image) for path, image in batch if not isinstance(image, str)]
        for path, problem in batch:
            if isinstance(problem, str):
                failed = True
                print(f"error: {problem}", file=sys.stderr)
                written.append({"file": str(path), "error": problem})
        if not good:
            continue
        inputs = np.stack([network_input for _, _, network_input in good])
        probabilities = prepare(artifact.model).probabilities(inputs)
        ranked = np.argsort(-probabilities, axis=1, kind="stable")
        columns = 3 if target == "top3" else 1
        for place in range(min(columns, ranked.shape[1])):
            targets = ranked[:, place] if target in (None, "top3") else np.full(len(good), target)
            maps = {}
            for name in methods:
                progress.begin(get_method(name).title, None, "steps")
                maps[name] = explain(
                    artifact.model, inputs, targets.astype(np.int32), name, layers,
                    combine=arguments.combine, seed=arguments.seed, progress=progress.reach, **options,
                )  # fmt: skip
                progress.clear()
            for index, (path, image, _) in enumerate(good):
                size = image.shape[:2]
                number = int(targets[index])
                label, probability = artifact.labels[number], float(probabilities[index, number])
                caption = f"{label} {probability:.1%}"
                placed = {
                    name: place_maps(drawn[index : index + 1], artifact.preprocessing, size)[0]
                    for name, drawn in maps.items()
                }
                for name, heat in placed.items():
                    method = get_method(name)
                    on = f" on {', '.join(layers)}" if method.on_layer else ""
                    file = folder / _file_name(path, label, name, taken)
                    picture = draw_overlay(image, heat, title=caption, subtitle=f"{method.title}{on}")
                    with atomic_file(file) as temporary:
                        temporary.write_bytes(png(picture))
                    row = {
                        "file": str(path), "class": label, "probability": probability, "method": name,
                        "constant": bool(is_constant(heat[None])[0]), "overlay": str(file),
                    }  # fmt: skip
                    if arguments.npy:
                        row["array"] = str(file.with_suffix(".npy"))
                        with atomic_file(row["array"]) as temporary:
                            np.save(temporary, heat)
                    written.append(row)
                    if not arguments.json:
                        note = "  constant map: nothing stands out" if row["constant"] else ""
                        print(f"{path}  {caption}  {name}  {file}{note}", flush=True)
                if arguments.grid:
                    sheet.append((image, list(placed.values()), f"{path.name}: {caption}"))
    if arguments.grid and sheet:
        images, heats, rows = zip(*sheet, strict=True)
        picture = draw_sheet(images, heats, rows=rows, columns=[get_method(name).title for name in methods])
        with atomic_file(folder / "grid.png") as temporary:
            temporary.write_bytes(png(picture))
        written.append({"grid": str(folder / "grid.png")})
        if not arguments.json:
            print(folder / "grid.png")
    return written, failed


def _batches(paths, artifact, size: int) -> Iterator[list]:
    """Lists of (path, what is wrong with it), or (path, (image as it is drawn, network input))."""
    from keras_resnet.data.transforms import preprocess
    from keras_resnet.explanation.inputs import read_images
    from keras_resnet.explanation.overlay import drawable

    batch = []
    for path, image in read_images(paths, artifact.preprocessing.channels):
        if not isinstance(image, str):
            # At once, so that no more than one image is held at its full size.
            image = drawable(image), preprocess(image, artifact.preprocessing).numpy()
        batch.append((path, image))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _file_name(path: Path, label: str, method: str, taken: set[str]) -> str:
    """A file name that no other image of this call has: photographs of two folders may share theirs."""
    clean = _shortened("".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in label), 40)
    stem = _shortened(path.stem, 100)  # file systems allow 255 bytes, and a file has a longer name while it is written
    name, number = f"{stem}-{clean}-{method}.png", 2
    while name in taken:
        name, number = f"{stem}_{number}-{clean}-{method}.png", number + 1
    taken.add(name)
    return name


def _shortened(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8, without letters that UTF-8 lacks."""
    return text.encode("utf-8", "ignore")[:limit].decode("utf-8", "ignore")


def _maximize(arguments, artifact, target) -> dict:
    import numpy as np
    from PIL import Image

    from keras_resnet.data.transforms import preprocess
    from keras_resnet.explanation.classifier import prepare
    from keras_resnet.explanation.methods import maximize_activation
    from keras_resnet.explanation.overlay import png
    from keras_resnet.storage import atomic_file

    if not isinstance(target, int):
        raise UserError(f"--method {MAXIMIZE} draws one class: name it with --target CLASS.")
    label = artifact.labels[target]
    progress = Progress()
    progress.begin("activation maximisation", None, "steps")
    pixels = maximize_activation(
        artifact.model, target, preprocessing=artifact.preprocessing, seed=arguments.seed, progress=progress.reach,
        steps=arguments.steps or 100,
    )  # fmt: skip
    progress.clear()
    file = Path(arguments.output) / _file_name(Path("class"), label, MAXIMIZE, set())
    with atomic_file(file) as temporary:
        temporary.write_bytes(png(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)))
    inputs = preprocess(pixels[np.newaxis], artifact.preprocessing).numpy()
    probability = float(prepare(artifact.model).probabilities(inputs)[0, target])
    if not arguments.json:
        print(f"{label}: the drawn image is classified as it with {probability:.1%}  {file}")
    return {"class": label, "probability": probability, "image": str(file)}


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

    from keras_resnet.data.reading import examples_at
    from keras_resnet.data.transforms import normalize
    from keras_resnet.explanation.inputs import split_masks, spread
    from keras_resnet.explanation.scoring import SCORES, score_methods

    if target == "top3":
        raise UserError("--score needs one target an image: use --target predicted or a class.")
    masks = marks = None
    failed = False
    began = time.perf_counter()
    if arguments.images:
        read = []
        for batch in _batches(arguments.images, artifact, 64):
            for _, image in batch:
                if isinstance(image, str):
                    failed = True
                    print(f"error: {image}", file=sys.stderr)
                else:
                    read.append(image[1])
        if not read:
            raise UserError("There is no image that can be read to be scored.")
        inputs = np.stack(read[: arguments.limit])
        source = "files"
    else:
        split, source = _examples(arguments, artifact)
        positions = spread(len(split), arguments.limit)
        pixels, _ = examples_at(split, artifact.preprocessing, positions)
        masks, marks = split_masks(split, positions, artifact)
        inputs = normalize(pixels, artifact.preprocessing).numpy()
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
    return record, failed


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
