"""Everything that the doctor looks at, in order: the table of probes, and `examine`."""

import dataclasses
import importlib.metadata
import re
import sys
from collections.abc import Iterator

from keras_resnet.diagnosis.findings import NOTE, PROBLEM, Finding
from keras_resnet.diagnosis.probing import Probe, run_probes

_PROBES = "keras_resnet.diagnosis.probes"
_PITFALLS = "keras_resnet.diagnosis.pitfalls"

# Of an advice {install} is the command that installs what is needed, and {NAME} what is needed of a package.
PROBES = (
    Probe(
        "Keras' backend",
        f"{_PROBES}:try_backend",
        stops_training=True,
        mend={"KERAS_BACKEND": "tensorflow"},
    ),
    Probe(
        "TensorFlow",
        f"{_PROBES}:try_tensorflow",
        'pip install --force-reinstall "{tensorflow}"; its processor must have AVX.',
        stops_training=True,
        is_basis=True,
    ),
    Probe(
        "Keras",
        f"{_PROBES}:try_keras",
        'pip install --force-reinstall "{keras}"',
        stops_training=True,
        is_basis=True,
    ),
    Probe("devices", f"{_PROBES}:try_devices", "Train with --devices cpu until TensorFlow's error is mended."),
    Probe("oneDNN", f"{_PROBES}:try_onednn", failure=NOTE),
    Probe("XLA", f"{_PROBES}:try_xla", "Train with --xla off.", failure=NOTE),
    Probe("bfloat16", f"{_PROBES}:try_bfloat16", "Train with --precision float32.", failure=NOTE),
    Probe("default training", f"{_PROBES}:try_default_training", "{install}", stops_training=True, limit_s=300),
)

PITFALLS = (
    Probe("TensorBoard", f"{_PITFALLS}:try_tensorboard", 'pip install "{tensorboard}"', stops_training=True),
    Probe(
        "tf.keras",
        f"{_PITFALLS}:try_tf_keras",
        "Unset TF_USE_LEGACY_KERAS, and write `import keras` instead of tf.keras.",
        failure=NOTE,
    ),
    Probe("tf-keras-vis", f"{_PITFALLS}:try_tf_keras_vis", 'pip install "{tf_keras_vis}" "{scipy}"'),
    Probe(
        "TensorFlow Datasets",
        f"{_PITFALLS}:try_tensorflow_datasets",
        'pip install "{tensorflow_datasets}" "{importlib_resources}"',
    ),
    Probe(
        "model.export",
        f"{_PITFALLS}:try_keras_export",
        "Export with export.py or keras_resnet.export, which write each weight once.",
        failure=NOTE,
    ),
    Probe(
        "TFLite: concrete",
        f"{_PITFALLS}:try_concrete_functions",
        "Convert with TFLiteConverter.from_saved_model, or export.py.",
        failure=NOTE,
    ),
    Probe(
        "TFLite: mixed",
        f"{_PITFALLS}:try_mixed_litert",
        "Export with export.py, which rebuilds the network in float32 first.",
        failure=NOTE,
    ),
    Probe(
        "animated WebP",
        f"{_PITFALLS}:try_animated_webp",
        "In your own tf.data code leave such files out, or save their first frame as an image.",
        failure=NOTE,
        is_alone=True,
    ),
    Probe(
        "ragged batches",
        f"{_PITFALLS}:try_ragged_batches",
        "In your own `fit` train on whole batches, as train.py does: drop_remainder=True or repeat(). Or set "
        "TF_ENABLE_ONEDNN_OPTS=0.",
        failure=NOTE,
        is_alone=True,
    ),
    Probe(
        "PyTorch's triton",
        f"{_PITFALLS}:try_triton",
        "Where one process takes both, write `import triton` before TensorFlow's import, or install PyTorch for CPUs.",
        failure=NOTE,
        is_alone=True,
    ),
)


def examine(*, quick: bool = False) -> Iterator[Finding]:
    """Looks at this machine and this installation.

    Args:
        quick: Whether to leave out the known pitfalls.

    Yields:
        What each check found, as it is found. Where packages are missing, that is what is found.
    """
    try:
        # They read version ranges, which takes Python 3.11 and the package `packaging`.
        import tomllib  # noqa: F401

        from keras_resnet.diagnosis import surroundings
        from keras_resnet.diagnosis.requirements import Requirements, requirements
    except ModuleNotFoundError as error:
        yield _missing(error)
        return
    try:
        needed = requirements()
    except importlib.metadata.PackageNotFoundError:
        found = "neither a checkout nor an installed package: the tested versions are unknown"
        yield Finding(NOTE, found, "Run pip install . in a checkout.", check="packages")
        needed = Requirements("", (), {}, {"": "pip install ."})
    yield from surroundings.check_python(needed)
    yield from surroundings.check_packages(needed)
    yield from surroundings.check_extras(needed)
    yield from surroundings.check_disks()
    names = {row.name.replace("-", "_"): f"{row.name}{row.specifier}" for row in needed.base}
    names["install"] = needed.commands[""]
    for found in run_probes(PROBES if quick else PROBES + PITFALLS):
        advice = re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], match[1]), found.advice)
        yield dataclasses.replace(found, advice=advice)


def _missing(error: ModuleNotFoundError) -> Finding:
    if error.name == "tomllib":
        version = ".".join(map(str, sys.version_info[:3]))
        found, advice = f"Python {version} is older than 3.11", "Make an environment with Python 3.11 or later."
    else:
        found, advice = f"{sys.executable} has no package {error.name!r}", "pip install -r requirements.txt"
    return Finding(PROBLEM, found, advice, stops_training=True, check="packages")
