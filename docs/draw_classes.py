"""Draws what a CIFAR-10 network takes to be typical of some classes, for docs/residual_connections.md.

    PYTHONPATH=. python docs/draw_classes.py resnet20-12fca82f.th resnet32-d509ac18.th docs/figures/drawn_classes.png

Takes two checkpoints of Idelbayev's pytorch_resnet_cifar10: the first draws, the second is asked what it sees.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_resnet import create_model, load_weights, maximize_activation
from keras_resnet.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from keras_resnet.data.feeding import preprocess
from keras_resnet.data.preprocessing import Preprocessing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DRAWN = 5  # the first ones of them
SIDE, GAP = 96, 8


def main(first: str, second: str, output: str) -> None:
    """Draws, prints what both networks say, and writes the sheet."""
    networks = []
    for name, path in (("resnet20", first), ("resnet32", second)):
        model = create_model(name)
        load_weights(model, path)
        networks.append(model)
    preprocessing = Preprocessing(32, 32, 3, IMAGENET_MEAN, IMAGENET_STD, labels=CLASSES)
    sheet = Image.new("RGB", (DRAWN * (SIDE + GAP) - GAP, SIDE + 20), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, label in enumerate(CLASSES[:DRAWN]):
        pixels = maximize_activation(networks[0], label, preprocessing=preprocessing, steps=100)
        said = []
        for model in networks:
            logits = np.asarray(model(preprocess(pixels[None], preprocessing)), np.float64)[0]
            odds = np.exp(logits - logits.max())
            odds /= odds.sum()
            said.append(f"{CLASSES[odds.argmax()]} {odds.max():.2f}")
        print(label, *said, sep="\t", flush=True)
        x = number * (SIDE + GAP)
        sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR), (x, 0))
        pen.text((x, SIDE + 2), label, font=font, fill="#63636d")
    sheet.save(output, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
