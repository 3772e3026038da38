"""Writes results/timm_rows.csv: every row of the table at its full depth beside timm's network, on the same weights.

Run from the project's root where timm, torchvision and PyTorch are installed (see record_rows.py):
`python tests/weights/record_full_depth.py [--largest MILLIONS]`. Takes about half an hour; run again it goes on where
it stopped. The weights are timm's initial ones with random scales, shifts and statistics of the norms, the images
random, 96×96. A row has the largest difference of a logit as a part of the largest logit, how far either network is
from timm's in double precision, which tells what rounding alone does, and whether timm's state dict came back
identical.
"""

import argparse
import gc
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import keras  # noqa: E402
from record_rows import timm, timm_name  # noqa: E402

from keras_resnet import provenance  # noqa: E402
from keras_resnet.models.registry import REGISTRY  # noqa: E402
from keras_resnet.models.resnet import build_model  # noqa: E402
from keras_resnet.storage import append_row, read_rows  # noqa: E402
from keras_resnet.weights.loading import load_reported  # noqa: E402
from keras_resnet.weights.pytorch import to_state_dict  # noqa: E402

SIDE, IMAGES = 96, 2


def compare(name: str) -> dict:
    """Returns a row's figures."""
    torch.manual_seed(0)
    theirs = timm.create_model(timm_name(name)).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    state = {key: value.numpy().copy() for key, value in theirs.state_dict().items()}
    channels = REGISTRY[name].input_shape[-1]
    pixels = np.random.default_rng(0).normal(size=(IMAGES, SIDE, SIDE, channels)).astype(np.float32)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        expected = theirs(batch).numpy()
        exact = theirs.double()(batch.double()).numpy()
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    del theirs
    ours = build_model(name, input_shape=(SIDE, SIDE, channels))
    load_reported(ours, state)
    found = np.asarray(ours.predict_on_batch(pixels))
    back = to_state_dict(ours)
    is_identical = set(back) == set(state) and all(np.array_equal(back[key], state[key]) for key in state)
    largest = np.abs(exact).max()
    return {
        "name": name,
        "timm": timm_name(name),
        "parameters": parameters,
        "relative_error": f"{np.abs(found - expected).max() / largest:.1e}",
        "ours_to_double": f"{np.abs(found - exact).max() / largest:.1e}",
        "timm_to_double": f"{np.abs(expected - exact).max() / largest:.1e}",
        "state_dict": "identical" if is_identical else "differs",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=250.0, help="most million parameters of a row")
    arguments = parser.parse_args()
    output = ROOT / "results" / "timm_rows.csv"
    done = {row["name"] for row in read_rows(output)}
    names = [name for name in REGISTRY if timm_name(name) is not None and name not in done]
    for number, name in enumerate(names, start=1):
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in timm.create_model(timm_name(name)).parameters())
        if size > 1e6 * arguments.largest:
            print(f"{name}: {size / 1e6:.0f} million parameters, left out", flush=True)
            continue
        row = compare(name)
        append_row(output, {**row, "command": "python tests/weights/record_full_depth.py", **provenance.result_row()})
        print(f"[{number}/{len(names)}] {name} {row['relative_error']} {row['state_dict']}", flush=True)
        keras.backend.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
