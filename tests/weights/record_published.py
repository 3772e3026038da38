"""Writes published_timm.py and published_timm_variants.py: what timm says of the weights of networks in our table.

Run from the project's root where timm 1.0.31 is installed, with results/results-imagenet.csv of its repository:
`PYTHONPATH=. python tests/weights/record_published.py results-imagenet.csv`.
"""

import csv
import sys
from pathlib import Path

from timm.models import res2net, resnest, resnet, resnetv2, sknet

from keras_resnet.models.registry import REGISTRY
from keras_resnet.weights import published

FOLDER = Path(published.__file__).parent
# Ours by this name are keras.applications' networks.
OTHER_NAMES = {name: f"{name}_timm" for name in ("resnetv2_50", "resnetv2_101", "resnetv2_152")}
BASES = ("RELEASES", "RELEASES_OLD", "GLUON", "TORCHVISION", "FACEBOOK", "HUB")
LICENCES = {"apache-2.0": "APACHE", "bsd-3-clause": "BSD", "cc-by-nc-4.0": "CC_BY_NC", "unknown": "UNKNOWN"}
NORMALIZATIONS = {published.IMAGENET[:2]: "IMAGENET", published.HALF[:2]: "HALF"}
COLUMNS = "model, name, base address, file, size, crop fraction, interpolation, normalisation, licence, top-1, top-5"


def rows(module, accuracies):
    """Yields (our name, the row's constants, the row as source text) for each published file of a module."""
    for theirs, default in module.default_cfgs.items():
        name = OTHER_NAMES.get(theirs, theirs)
        if name not in REGISTRY:
            continue
        for tag, facts in default.cfgs.items():
            if not facts.has_weights or not facts.num_classes:
                continue
            address = facts.url or f"{published.HUB}{theirs}.{tag}/resolve/main/model.safetensors"
            base = next(base for base in BASES if address.startswith(getattr(published, base)))
            file = address.removeprefix(getattr(published, base)) if facts.url else ""
            size = facts.input_size[1]
            expected = published.DATA_SETS[facts.num_classes].replace("ImageNet-1k", "")
            endings = [count for ending, count in published.TIMM_CLASSES.items() if tag.endswith(ending)]
            assert endings == ([facts.num_classes] if expected else []), (theirs, tag)
            accuracy = accuracies.get((f"{theirs}.{tag}", size), (None, None))
            normalization = NORMALIZATIONS[tuple(facts.mean), tuple(facts.std)]
            first = f'    ("{name}", "{tag}", {base}, "{file}",'
            second = (
                f'{size}, {facts.crop_pct}, "{facts.interpolation}", {normalization}, {LICENCES[facts.license]}, '
                f"{accuracy[0]}, {accuracy[1]}),"
            )
            line = f"{first} {second}"
            yield (
                line if len(line) <= 120 else f"{first}\n     {second}",
                {base, normalization, LICENCES[facts.license]},
            )


def write(file, docstring, table, modules, accuracies):
    """Writes a module with one table."""
    found = [row for module in modules for row in rows(module, accuracies)]
    names = sorted(set().union(*(used for _, used in found)))
    imports = f"from keras_resnet.weights.published import {', '.join(names)}\n"
    if len(imports) > 120:
        imports = "from keras_resnet.weights.published import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"
    text = f'"""{docstring}"""\n\n{imports}\n# {COLUMNS}\n{table} = (\n'
    (FOLDER / file).write_text(text + "\n".join(row for row, _ in found) + "\n)  # fmt: skip\n", encoding="utf-8")
    print(f"{file}: {len(found)} rows")


def main(results: str) -> None:
    with open(results, newline="", encoding="utf-8") as file:
        accuracies = {
            (row["model"], int(row["img_size"])): (float(row["top1"]), float(row["top5"]))
            for row in csv.DictReader(file)
        }
    write(
        "published_timm.py",
        "What timm publishes for the networks of its `resnet` module; sources in `published`.",
        "TIMM_TABLE",
        [resnet],
        accuracies,
    )
    write(
        "published_timm_variants.py",
        "What timm publishes for pre-activation, ResNeSt, SK and Res2Net networks; sources in `published`.",
        "TIMM_VARIANTS_TABLE",
        [resnetv2, resnest, sknet, res2net],
        accuracies,
    )


if __name__ == "__main__":
    main(sys.argv[1])
