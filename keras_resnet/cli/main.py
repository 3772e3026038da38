"""`keras-resnet VERB …`: every script under one name."""

from collections.abc import Sequence

from keras_resnet.cli import script

VERBS = {
    "train": ("keras_resnet.cli.train:main", "train a network; the same command resumes an interrupted run"),
    "evaluate": ("keras_resnet.cli.evaluate:main", "exact metrics of a model over every example"),
    "predict": ("keras_resnet.cli.predict:main", "label and probability for image files"),
    "export": ("keras_resnet.cli.export:main", "SavedModel, .tflite, ONNX, OpenVINO, each checked against its source"),
    "convert": ("keras_resnet.cli.convert:main", "weights of PyTorch or keras.applications to .keras, and back"),
    "explain": ("keras_resnet.cli.explain:main", "heat maps of where a network finds its evidence, scored"),
    "serve": ("keras_resnet.cli.serve:main", "exported networks behind HTTP, with TensorFlow Serving's REST API"),
    "demo": ("keras_resnet.cli.demo:main", "a page that runs an exported .tflite file in the browser"),
    "check": ("keras_resnet.cli.check:main", "what a phone's runtime and accelerators make of a .tflite file"),
    "report": ("keras_resnet.cli.report:main", "the page of a finished run, written anew"),
    "compare": ("keras_resnet.cli.compare:main", "runs side by side: curves, results, settings that differ"),
    "models": ("keras_resnet.cli.models:main", "what networks there are and what each costs"),
    "pack": ("keras_resnet.cli.pack:main", "a data set as record files, which records:PATH reads"),
    "recipes": ("keras_resnet.cli.recipes:main", "what recipes there are, their settings and published results"),
    "plot": ("keras_resnet.cli.plot:main", "a network's stages as a picture"),
    "plot-augmentation": (
        "keras_resnet.cli.plot_augmentation:main",
        "training images as an augmentation changes them, as a picture",
    ),
    "benchmark": ("keras_resnet.cli.benchmark:main", "images per second of input and training"),
    "study": ("keras_resnet.cli.study:main", "what residual connections are good for, measured by training networks"),
    "doctor": ("keras_resnet.cli.doctor:main", "whether training works on this machine, and what to do where not"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names and returns its exit code."""
    return script.dispatch("keras-resnet", VERBS, argv)
