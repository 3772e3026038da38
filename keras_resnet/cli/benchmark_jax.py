"""`benchmark.py scale` and `benchmark.py gpu`: the benchmarks that run on JAX."""

import argparse
from collections.abc import Sequence

from keras_resnet.cli import measuring, script
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar


def benchmark_scale(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py scale`."""
    parser = measuring.create_parser(
        "scale",
        "Trains on random images on JAX: with one worker, with two, and with two processes that do not communicate. "
        "Each process has its own core and thread, and a batch of the same size. A model extrapolates from the bytes "
        "that a worker sends per step to 8 and to 8 × 8 GPUs; that part is not measured.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--batch-size", type=script.positive_int, default=64, help="images per worker and step")
    parser.add_argument("--steps", type=script.positive_int, default=20, help="steps per round")
    parser.add_argument("--rounds", type=script.positive_int, default=5, help="rounds; the median counts")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        side = arguments.image_size or get_config(arguments.model).input_shape[0]
        from keras_resnet.benchmarks.scaling import benchmark_scaling

        return benchmark_scaling(
            arguments.model,
            image_size=side,
            batch_size=arguments.batch_size,
            steps=arguments.steps,
            rounds=arguments.rounds,
            progress=ProgressBar(),
        )

    return measuring.run("scale", measure, parser, argv)


def benchmark_gpu(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py gpu`."""
    parser = measuring.create_parser(
        "gpu",
        "Trains ResNet-50 at 224 in bfloat16 on random images that lie on the GPU, at several batch sizes, on JAX "
        "(KERAS_BACKEND=jax); beside it timm's or torchvision's under torch.compile(mode='max-autotune') where PyTorch "
        "is installed, and inference with folded batch norms. Figures are images per second, memory, and the share of "
        "what the GPU allows. Takes less than eight minutes and downloads nothing.",
    )
    parser.add_argument("--seconds", type=measuring.positive, default=460.0, help="for all measurements together")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        from keras_resnet.benchmarks.gpu import benchmark_gpu

        return benchmark_gpu(limit_seconds=arguments.seconds, progress=ProgressBar())

    return measuring.run("gpu", measure, parser, argv)
