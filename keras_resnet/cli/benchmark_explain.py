"""`benchmark.py explain`: what heat maps cost beside the plain forward pass and beside tf-keras-vis."""

import argparse
import time
from collections.abc import Sequence
from statistics import median

from keras_resnet.cli import script
from keras_resnet.cli.benchmark import build_parser, report
from keras_resnet.models.registry import get_config
from keras_resnet.progress import Progress

FORWARD, THEIRS = "forward pass", "gradcam_tf_keras_vis"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and returns the exit code."""
    parser = build_parser(
        "explain",
        "Draws Grad-CAM for the same batch in turns: in closed form, by gradients and with tf-keras-vis, beside the "
        "plain forward pass, each from arrays to arrays. Weights and images are "
        "random: neither changes what a map costs.",
    )
    parser.add_argument("--model", default="resnet50", help="network, a name of the model table")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--batch-size", type=script.positive_int, default=32, help="images in the batch")
    parser.add_argument("--rounds", type=script.positive_int, default=7, help="rounds; the median counts")
    return script.run(lambda arguments: _benchmark(arguments, argv), parser, argv)


def _benchmark(arguments: argparse.Namespace, given: Sequence[str] | None) -> None:
    config = get_config(arguments.model)
    side = arguments.image_size or config.input_shape[0]

    from keras_resnet.distribution import require_tensorflow

    require_tensorflow()
    import numpy as np

    from keras_resnet.explanation.classifier import prepare
    from keras_resnet.explanation.methods import explain
    from keras_resnet.models.resnet import build_model

    model = build_model(config, input_shape=(side, side, config.input_shape[-1]))
    images = np.random.default_rng(0).normal(size=(arguments.batch_size, *model.input_shape[1:])).astype(np.float32)
    classifier = prepare(model)
    targets = classifier.logits(images).numpy().argmax(axis=1).astype(np.int32)

    def maps(method):
        return lambda: explain(model, images, targets, method, batch_size=arguments.batch_size)

    contestants = {
        FORWARD: lambda: classifier.logits(images).numpy(),
        "gradcam_closed_form": maps("gradcam_closed_form"),
        "gradcam_gradient": maps("gradcam_gradient"),
        THEIRS: maps(THEIRS),
    }
    for draw in contestants.values():
        draw()
    traced = classifier.traces()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    progress = Progress()
    progress.begin(f"explain {arguments.model}", arguments.rounds * len(contestants), "batches")
    for _ in range(arguments.rounds):
        for name, draw in contestants.items():
            began = time.perf_counter()
            draw()
            times[name].append(time.perf_counter() - began)
            progress.step()
    progress.end()
    seconds = {name: median(values) for name, values in times.items()}
    rows = [
        {
            "method": name,
            "model": arguments.model,
            "image_size": side,
            "batch_size": arguments.batch_size,
            "images_per_second": round(arguments.batch_size / value, 2),
            "times_the_forward_pass": round(value / seconds[FORWARD], 3),
            "times_tf_keras_vis_images_per_second": round(seconds[THEIRS] / value, 3),
            "traced_again": classifier.traces() - traced,
            "rounds": arguments.rounds,
        }
        for name, value in seconds.items()
    ]
    report("explain", rows, arguments, given)
