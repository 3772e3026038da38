"""`benchmark.py WHAT`: speed, and the accuracy of a training time, measured on the spot."""

import argparse
from collections.abc import Sequence

from keras_resnet.cli import measuring, script
from keras_resnet.distribution import PRECISIONS
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.models.registry import get_config
from keras_resnet.progress import ProgressBar

VERBS = {
    "input": ("keras_resnet.cli.benchmark:benchmark_input", "the input pipeline beside the training step"),
    "train": (
        "keras_resnet.cli.benchmark:benchmark_train",
        "training beside plain Keras and PyTorch",
    ),
    "memory": ("keras_resnet.cli.benchmark:benchmark_memory", "the memory that training from a data set takes"),
    "operators": ("keras_resnet.cli.benchmark:benchmark_operators", "where the time of a training step goes"),
    "predict": ("keras_resnet.cli.benchmark:benchmark_predict", "photographs to labels beside model.predict"),
    "explain": ("keras_resnet.cli.benchmark:benchmark_explain", "heat maps beside the forward pass and tf-keras-vis"),
    "export": ("keras_resnet.cli.benchmark:benchmark_export", "exported formats beside plain model.export"),
    "serve": (
        "keras_resnet.cli.benchmark:benchmark_serve",
        "the server beside one image at a time and a plain handler",
    ),
    "budget": ("keras_resnet.cli.benchmark:benchmark_budget", "test accuracy within the same training time"),
    "pieces": ("keras_resnet.cli.benchmark:benchmark_pieces", "what augmentation, averaging and the like are worth"),
    "scale": ("keras_resnet.cli.benchmark_jax:benchmark_scale", "two workers against one, and a model of 64 GPUs"),
    "gpu": ("keras_resnet.cli.benchmark_jax:benchmark_gpu", "ResNet-50 on a GPU by JAX, beside PyTorch's compiler"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark that the first argument names and returns the exit code."""
    return script.dispatch("benchmark.py", VERBS, argv)


def benchmark_train(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py train`."""
    parser = measuring.create_parser(
        "train",
        "Trains on random images, in turns and in processes of their own: with this project (input pipeline, "
        "augmentation and checks included), the same layers in plain Keras with model.fit on arrays in memory, and, "
        "where JAX or PyTorch is installed, this project on JAX, and the same network in PyTorch, eager and by "
        "torch.compile.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--steps", type=script.at_least(3), default=12, help="steps per round; the first is not timed")
    parser.add_argument("--rounds", type=script.positive_int, default=5, help="rounds; the median counts")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="precision of ours and PyTorch's")
    parser.add_argument(
        "--contestants", nargs="*", metavar="NAME", help="who trains beside ours; default: who can run here"
    )

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        from keras_resnet.backends import require_backend

        require_backend()
        from keras_resnet.benchmarks.training import benchmark_training
        from keras_resnet.training.recipes import Recipe

        recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
        return benchmark_training(
            recipe,
            image_size=arguments.image_size,
            steps=arguments.steps,
            rounds=arguments.rounds,
            contestants=arguments.contestants,
        )

    return measuring.run("train", measure, parser, argv)


def benchmark_operators(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py operators`."""
    parser = measuring.create_parser(
        "operators",
        "Profiles training steps on a batch in memory and lists the operators, the costliest first. Operators may run "
        "at the same time, so that together they may take longer than the step.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--steps", type=script.positive_int, default=5, help="steps that are profiled")
    parser.add_argument("--precision", default="float32", help="precision of the training")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.operators import benchmark_operators
        from keras_resnet.training.recipes import Recipe

        recipe = Recipe(model=arguments.model, batch_size=arguments.batch_size, precision=arguments.precision)
        return benchmark_operators(recipe, image_size=arguments.image_size, steps=arguments.steps)

    return measuring.run("operators", measure, parser, argv)


def benchmark_input(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py input`."""
    parser = measuring.create_parser(
        "input",
        "Measures the input pipeline alone (decoding, augmentation, batches) and the training step alone, in turns, "
        "for digits, a folder of 32×32 JPEGs and a folder of photographs at 224.",
    )
    parser.add_argument("--small-folder", metavar="FOLDER", help="folder of small images; default: drawn ones")
    parser.add_argument("--photo-folder", metavar="FOLDER", help="folder of photographs; default: drawn ones")
    parser.add_argument("--small-model", default="resnet20", help="network for the small images")
    parser.add_argument("--photo-model", default="resnet18", help="network for the photographs")
    parser.add_argument("--seconds", type=float, default=5.0, help="least time that each of the two is measured for")
    parser.add_argument(
        "--augmentation",
        metavar="STEPS",
        nargs="+",
        default=[],
        help="measure these augmentations instead, a row each, beside no augmentation and decoding alone",
    )

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        for model in (arguments.small_model, arguments.photo_model):
            get_config(model)
        if not arguments.seconds > 0:
            raise UserError(f"--seconds must be above 0, got {arguments.seconds}.")
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.inputs import benchmark_augmentations, benchmark_inputs

        options = {
            "small_folder": arguments.small_folder,
            "photo_folder": arguments.photo_folder,
            "seconds": arguments.seconds,
        }
        if arguments.augmentation:
            return benchmark_augmentations(arguments.augmentation, **options)
        return benchmark_inputs(
            small_model=arguments.small_model,
            photo_model=arguments.photo_model,
            **options,
        )

    return measuring.run("input", measure, parser, argv)


def benchmark_memory(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py memory`."""
    parser = measuring.create_parser(
        "memory", "Trains an epoch from each data set and reads the highest memory in use."
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="data set of 32×32 images, as for train.py")
    parser.add_argument("--model", default="resnet8", help="network, a name of the model table")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        for dataset in arguments.datasets:
            script.check_data_set(dataset)
        from keras_resnet.benchmarks.memory import benchmark_memory

        return benchmark_memory(arguments.datasets, model=arguments.model)

    return measuring.run("memory", measure, parser, argv)


def benchmark_predict(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py predict`."""
    parser = measuring.create_parser(
        "predict",
        "Predicts photographs in turns: from files to labels as predict.py does, by the SavedModel of an export on "
        "pixels in memory, and by model.predict over image_dataset_from_directory. Weights are random.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of photographs")
    parser.add_argument("--model", default="resnet50", help="network, a name of the model table")
    parser.add_argument(
        "--images", type=script.positive_int, default=1000, help="how many; files come again where there are fewer"
    )
    parser.add_argument("--rounds", type=script.positive_int, default=3, help="rounds; the median counts")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.predictions import benchmark_predictions

        return benchmark_predictions(
            arguments.model,
            arguments.folder,
            count=arguments.images,
            turns=arguments.rounds,
            progress=ProgressBar(),
        )

    return measuring.run("predict", measure, parser, argv)


def benchmark_explain(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py explain`."""
    parser = measuring.create_parser(
        "explain",
        "Draws Grad-CAM for the same batch in turns: in closed form, by gradients and with tf-keras-vis, beside the "
        "plain forward pass, each from arrays to arrays. Weights and images are random: neither changes what a map "
        "costs.",
    )
    parser.add_argument("--model", default="resnet50", help="network, a name of the model table")
    parser.add_argument("--image-size", type=script.positive_int, help="side of the images; default: the network's")
    parser.add_argument("--batch-size", type=script.positive_int, default=32, help="images in the batch")
    parser.add_argument("--rounds", type=script.positive_int, default=7, help="rounds; the median counts")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.heatmaps import benchmark_heatmaps

        return benchmark_heatmaps(
            arguments.model,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            rounds=arguments.rounds,
        )

    return measuring.run("explain", measure, parser, argv)


def benchmark_export(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py export`."""
    parser = measuring.create_parser(
        "export",
        "Times every exported format in turns: SavedModel beside plain model.export, keras predict, ONNX Runtime and "
        "OpenVINO (where installed), and .tflite files beside the one that from_keras_model writes. Weights are "
        "random.",
    )
    parser.add_argument("--models", nargs="+", default=["resnet50", "resnet20"], help="networks of the model table")
    parser.add_argument(
        "--batches", nargs="+", type=script.positive_int, default=[1, 32], help="batches of the server formats"
    )
    parser.add_argument("--turns", type=script.positive_int, default=15, help="turns; medians count")
    parser.add_argument("--threads", type=script.positive_int, default=2, help="threads of the .tflite files")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        for model in arguments.models:
            get_config(model)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.exports import benchmark_exports

        progress = ProgressBar(len(arguments.models) * (len(arguments.batches) + 1))
        options = {"turns": arguments.turns, "threads": arguments.threads, "progress": progress}
        return [
            row
            for model in arguments.models
            for row in benchmark_exports(model, batches=tuple(arguments.batches), **options)
        ]

    return measuring.run("export", measure, parser, argv)


def benchmark_serve(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py serve`."""
    parser = measuring.create_parser(
        "serve",
        "Asks servers on this machine by several numbers of clients at once: serve.py, the same with one image at a "
        "time, and a FastAPI handler that calls model.predict. Weights and images are random; each answer is compared "
        "with the one that its image must have.",
    )
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--clients", nargs="+", type=script.positive_int, default=[1, 8, 64], help="clients at once")
    parser.add_argument("--seconds", type=measuring.positive, default=5.0, help="length of each measurement")
    parser.add_argument("--backend", default="auto", help="what answers, as for serve.py")

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        from keras_resnet.server.settings import BACKENDS

        get_config(arguments.model)
        if arguments.backend not in BACKENDS:
            raise unknown_name("value of --backend", arguments.backend, BACKENDS)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.serving import benchmark_serving

        return benchmark_serving(
            arguments.model,
            clients=tuple(arguments.clients),
            seconds=arguments.seconds,
            backend=arguments.backend,
            progress=ProgressBar(),
        )

    return measuring.run("serve", measure, parser, argv)


def benchmark_budget(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py budget`."""
    from keras_resnet.benchmarks.budget import CONTESTANTS

    parser = measuring.create_parser(
        "budget",
        "Trains the contestants one after the other, each in a process of its own, on the same images for the same "
        "time, and tests each at evenly spaced marks. The clock stands still during the tests, and schedules run over "
        "the budget: every recipe has as many epochs as fit. All training images count, those for validation included. "
        f"Contestants: {', '.join(CONTESTANTS)}. plain_keras is the same network in model.fit with Adam and Keras' "
        "defaults, pytorch is he2015 in PyTorch.",
    )
    parser.add_argument("--dataset", default="digits", help="data set, as for train.py")
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", default=["he2015", "pytorch"], help="who trains, in this order"
    )
    parser.add_argument("--minutes", type=measuring.positive, default=15.0, help="training time of each")
    parser.add_argument("--marks", type=script.positive_int, default=15, help="evenly spaced times of the tests")
    measuring.add_seeds(parser, default=1)

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        from keras_resnet.benchmarks.budget import benchmark_budget, recipe_of

        get_config(arguments.model)
        script.check_data_set(arguments.dataset)
        for name in arguments.contestants:
            recipe_of(name, model=arguments.model, dataset=arguments.dataset, seed=0)
        measuring.need_tensorflow()
        return benchmark_budget(
            arguments.contestants,
            dataset=arguments.dataset,
            model=arguments.model,
            seconds=60 * arguments.minutes,
            marks=arguments.marks,
            seeds=arguments.seeds,
            **measuring.continued_file(arguments, "budget", argv),
        )

    return measuring.run("budget", measure, parser, argv, saves=True)


def benchmark_pieces(argv: Sequence[str] | None = None) -> int:
    """`benchmark.py pieces`."""
    parser = measuring.create_parser(
        "pieces",
        "Trains a network with each piece alone added to the shifts and mirror images of crop_flip, everything else "
        "being equal, as train.py does. A piece is one of none, crop_flip, randaugment, mixup_cutmix, label_smoothing "
        "and ema, or any augmentation as train.py takes it.",
    )
    parser.add_argument("--dataset", default="digits", help="data set, as for train.py")
    parser.add_argument("--model", default="resnet20", help="network, a name of the model table")
    parser.add_argument("--pieces", nargs="+", metavar="PIECE", help="which ones; default: all")
    parser.add_argument("--epochs", type=script.positive_int, default=30, help="epochs of each training")
    parser.add_argument("--batch-size", type=script.positive_int, default=128, help="images per step")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["float32"], help="each piece trains in each of these"
    )
    measuring.add_seeds(parser, default=3)

    def measure(arguments: argparse.Namespace) -> measuring.Rows:
        get_config(arguments.model)
        script.check_data_set(arguments.dataset)
        measuring.need_tensorflow()
        from keras_resnet.benchmarks.pieces import PIECES, benchmark_pieces

        return benchmark_pieces(
            arguments.pieces or list(PIECES),
            dataset=arguments.dataset,
            model=arguments.model,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            precisions=arguments.precisions,
            seeds=arguments.seeds,
            **measuring.continued_file(arguments, "pieces", argv),
        )

    return measuring.run("pieces", measure, parser, argv, saves=True)
