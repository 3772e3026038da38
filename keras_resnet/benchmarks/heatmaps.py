"""`benchmark.py explain`: what heat maps cost beside the plain forward pass and beside tf-keras-vis."""

from typing import Any

import numpy as np

from keras_resnet.benchmarks.turns import take_turns
from keras_resnet.explanation.classifier import prepare
from keras_resnet.explanation.methods import explain
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.progress import ProgressBar

FORWARD, THEIRS = "forward pass", "gradcam_tf_keras_vis"


def benchmark_heatmaps(
    model: str, *, image_size: int | None = None, batch_size: int = 32, rounds: int = 7
) -> list[dict[str, Any]]:
    """Draws Grad-CAM for the same batch in turns, from arrays to arrays.

    Weights and images are random: neither changes what a map costs.

    Args:
        model: A name of the model table.
        image_size: Side of the images; without it the network's.
        batch_size: Images in the batch.
        rounds: Rounds that count.

    Returns:
        One row for the forward pass, the closed form, the gradients and tf-keras-vis: images per second, and the time
        as a multiple of the forward pass.
    """
    config = get_config(model)
    side = image_size or config.input_shape[0]
    network = build_model(config, input_shape=(side, side, config.input_shape[-1]))
    images = np.random.default_rng(0).normal(size=(batch_size, *network.input_shape[1:])).astype(np.float32)
    classifier = prepare(network)
    targets = classifier.logits(images).numpy().argmax(axis=1).astype(np.int32)

    def maps(method):
        def draw() -> None:
            explain(network, images, targets, method, batch_size=batch_size)

        return draw

    def forward() -> None:
        classifier.logits(images).numpy()

    contestants = {
        FORWARD: forward,
        **{name: maps(name) for name in ("gradcam_closed_form", "gradcam_gradient", THEIRS)},
    }
    for draw in contestants.values():
        draw()
    traced = classifier.traces()
    progress = ProgressBar()
    progress.begin(f"explain {model}", rounds * len(contestants), "batches")
    timings = take_turns(contestants, turns=rounds, progress=progress, warmups=0)
    progress.end()
    return [
        {
            "method": name,
            "model": model,
            "image_size": side,
            "batch_size": batch_size,
            "images_per_second": round(batch_size / own.wall_median, 2),
            "times_the_forward_pass": round(timings[FORWARD].speedup_over(own), 3),
            "times_tf_keras_vis_images_per_second": round(own.speedup_over(timings[THEIRS]), 3),
            "traced_again": classifier.traces() - traced,
            "rounds": rounds,
        }
        for name, own in timings.items()
    ]
