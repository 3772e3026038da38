"""`keras-resnet plot-augmentation SOURCE`: training images as an augmentation changes them, as a picture."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from keras_resnet.cli import script
from keras_resnet.errors import UserError
from keras_resnet.storage import atomic_file
from keras_resnet.training.named_recipes import recipe_settings
from keras_resnet.training.recipes import Recipe


def build_parser() -> script.Parser:
    """Builds the parser; imports nothing heavy."""
    parser = script.Parser(prog="keras-resnet plot-augmentation", description=__doc__)
    parser.add_argument("source", help="data set: a folder of images, or a name as train.py --dataset takes it")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="take augmentation and resizing from this recipe")
    parser.add_argument("--augmentation", metavar="STEPS", help="steps to draw; default: the recipe's or data set's")
    parser.add_argument("--images", type=script.positive_int, default=6, help="rows: how many images")
    parser.add_argument("--variants", type=script.positive_int, default=7, help="columns: variants of each image")
    parser.add_argument("--seed", type=script.at_least(0), default=0, help="what the choice and changes depend on")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the network input")
    parser.add_argument("--output", metavar="FILE.png", default="augmentation.png", help="where the sheet goes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the sheet. Returns the exit code."""
    return script.run(command, build_parser(), argv)


def command(args: argparse.Namespace) -> int:
    settings = recipe_settings(args.recipe) if args.recipe else {}
    flags = {"seed": args.seed, "image_size": args.image_size, "augmentation": args.augmentation}
    flags["dataset"] = f"folder:{args.source}" if os.path.isdir(args.source) else args.source
    recipe = Recipe.from_dict({**settings, **{name: value for name, value in flags.items() if value is not None}})
    script.check_data_set(recipe.dataset)
    path = Path(args.output)
    if path.suffix.lower() != ".png":
        raise UserError(f"The sheet is written as PNG, got {path}: end its name in .png.")

    from keras_resnet.data.augmentation import parse_augmentation
    from keras_resnet.data.sheets import draw_augmentation
    from keras_resnet.data.sources import load_source

    if recipe.augmentation != "default":
        parse_augmentation(recipe.augmentation)  # before a large folder is read
    data = load_source(
        recipe.dataset,
        data_dir=recipe.data_dir,
        image_size=recipe.image_size,
        seed=recipe.seed,
        bad_images=recipe.bad_images,
    )
    augmentation = data.augmentation if recipe.augmentation == "default" else recipe.augmentation
    sheet = draw_augmentation(
        data.train,
        data.preprocessing(resize=recipe.resize, crop_fraction=recipe.crop_fraction),
        augmentation,
        images=args.images,
        variants=args.variants,
        seed=recipe.seed,
    )
    with atomic_file(path) as temporary:
        sheet.save(temporary)
    print(f"{path}: {augmentation}")
    return 0
