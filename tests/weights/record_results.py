"""Writes results/weights.csv: how far converted weights' logits are from those of the network they came from.

Run from the project's root: `PYTHONPATH=. python tests/weights/record_results.py [--backends]`. The real CIFAR
checkpoints are left out where they are absent; `--backends` adds JAX and PyTorch under Keras (minutes).
"""

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path

import named_tensors
import numpy as np
import test_backends
import test_keras_applications
import test_pytorch

from keras_resnet import provenance
from keras_resnet.applications import FUNCTIONS
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import append_row
from keras_resnet.weights.loading import learnt_preprocessing, load_weights

ROOT = Path(__file__).resolve().parents[2]
NAMED = "tensors made from names, 2 images of 72×72"


def rows(backends: bool):
    """Yields (model, reference, on what, logits, expected, labels or None)."""
    references = json.loads(Path(__file__).with_name("references.json").read_text())
    images = named_tensors.images()
    for key, reference in references["models"].items():
        expected = np.array(reference["logits"], np.float32)
        name, shape = key.split("@")[0], images.shape[1:]
        model = build_model(name, num_classes=expected.shape[1], input_shape=shape, **reference["options"])
        load_weights(model, named_tensors.named_state(model))
        package = reference["package"]
        origin = f"{package} {references['versions'][package]} {reference['name']}"
        yield key, origin, NAMED, model.predict(images, verbose=0), expected, None
    for parameter in test_keras_applications.NETWORKS:
        network = parameter if isinstance(parameter, str) else parameter.values[0]
        theirs = test_keras_applications.filled(network, images.shape[1])
        shape = images.shape[1:]
        ours = build_model(FUNCTIONS[network], num_classes=named_tensors.CLASSES, input_shape=shape)
        load_weights(ours, theirs)
        origin = f"keras.applications {importlib.metadata.version('keras')} {network}"
        logits, expected = (model.predict(images, verbose=0) for model in (ours, theirs))
        yield FUNCTIONS[network], origin, NAMED, logits, expected, None
    yield from _real_rows()
    if backends:
        yield from _backend_rows()


def _real_rows():
    import torch

    for folder in (ROOT.parent / "shared", ROOT.parents[1] / "shared"):
        if not (folder / "weights").is_dir():
            continue
        data = np.load(folder / "data" / "cifar10_subset.npz")
        for name, file in (("resnet20", "resnet20-12fca82f.th"), ("resnet32", "resnet32-d509ac18.th")):
            model = load_weights(name, folder / "weights" / file)
            settings = learnt_preprocessing(model, folder / "weights" / file)
            pixels = ((data["x_test"] / 255 - settings.mean) / settings.std).astype(np.float32)
            content = torch.load(folder / "weights" / file, map_location="cpu", weights_only=True)["state_dict"]
            state = {key.removeprefix("module."): value for key, value in content.items()}
            expected = np.concatenate([test_pytorch.cifar_logits(state, part) for part in np.array_split(pixels, 3)])
            origin = f"PyTorch {torch.__version__} {file}"
            logits = model.predict(pixels, batch_size=339, verbose=0)
            yield name, origin, "1,017 test images of CIFAR-10", logits, expected, data["y_test"].ravel()
        return


def _backend_rows():
    with tempfile.TemporaryDirectory() as folder:
        expected = test_backends.write_files(Path(folder))
        for backend in ("jax", "torch"):
            found = test_backends.run(Path(folder), backend)
            origin = f"{backend} {importlib.metadata.version(backend)} against tensorflow, one .keras file"
            for name in expected:
                on = f"tensors made from names, 2 images of {test_backends.side(name)}²"
                yield name, origin, on, found[name], expected[name], None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", action="store_true", help="also JAX and PyTorch under Keras")
    arguments = parser.parse_args()
    output = ROOT / "results" / "weights.csv"
    found = []
    command = "PYTHONPATH=. python tests/weights/record_results.py" + (" --backends" if arguments.backends else "")
    for model, reference, on, logits, expected, labels in rows(arguments.backends):
        difference, largest = float(np.abs(logits - expected).max()), float(np.abs(expected).max())
        row = {
            "model": model,
            "reference": reference,
            "on": on,
            "max_logit_difference": f"{difference:.3g}",
            "largest_logit": f"{largest:.4g}",
            "relative_difference": f"{difference / largest:.2g}",
            "same_top1": f"{(logits.argmax(1) == expected.argmax(1)).sum()} of {len(logits)}",
            "correct": "" if labels is None else int((logits.argmax(1) == labels).sum()),
            "correct_reference": "" if labels is None else int((expected.argmax(1) == labels).sum()),
            **provenance.result_row(),
            "command": command,
        }
        found.append(row)
        print(f"{model:22} {reference:55} {row['max_logit_difference']:>9} {row['relative_difference']:>8}", flush=True)
    output.unlink(missing_ok=True)
    for row in found:
        append_row(output, row)


if __name__ == "__main__":
    main()
