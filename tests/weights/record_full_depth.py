"""Writes results/timm_rows.csv: every row of the table at its full depth beside timm's network, on the same weights.

Run from the project's root where timm, torchvision and PyTorch are installed (see record_rows.py):
`python tests/weights/record_full_depth.py [--largest MILLIONS]`. Takes about half an hour, from the smallest network to
the largest; run again it goes on where it stopped. Weights and images are `named_tensors`, 64×64. A row has the largest
difference of a logit as a part of the largest logit, how far either network is from timm's in double precision, which
tells what rounding alone does, and whether timm's state dict came back identical. Where the two differ by more than
1e-5, ours is compared in double precision too; our logits are float32 even then, so that 1e-7 is as near as they come.
How far timm's network in double precision is from itself, given the same image in another memory layout, tells how
close any other network can come.
"""

import argparse
import contextlib
import gc
import json
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).with_name("rows.json")
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import keras  # noqa: E402
from named_tensors import images, tensor  # noqa: E402
from record_rows import SIZE, timm, timm_name  # noqa: E402

from keras_resnet import provenance  # noqa: E402
from keras_resnet.models.registry import REGISTRY  # noqa: E402
from keras_resnet.models.resnet import build_model  # noqa: E402
from keras_resnet.storage import append_row, read_rows  # noqa: E402
from keras_resnet.weights.loading import load_reported  # noqa: E402
from keras_resnet.weights.pytorch import to_state_dict  # noqa: E402

TOLERANCE = 1e-5


def compare(name: str) -> dict:
    """Returns a row's figures."""
    theirs = timm.create_model(timm_name(name)).eval()
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    state = {
        key: tensor(key, tuple(value.shape)) if value.is_floating_point() else value.numpy()
        for key, value in theirs.state_dict().items()
    }
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    channels = REGISTRY[name].input_shape[-1]
    pixels = images(channels, SIZE)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        expected = theirs(batch).numpy()
        exact = theirs.double()(batch.double()).numpy()
        again = theirs(batch.double().contiguous(memory_format=torch.channels_last)).numpy()
    del theirs
    found, is_identical = answer(name, state, pixels)
    largest = np.abs(exact).max()

    def relative(left, right) -> str:
        return f"{np.abs(left - right).max() / largest:.1e}"

    row = {
        "name": name,
        "timm": timm_name(name),
        "parameters": parameters,
        "relative_error": relative(found, expected),
        "ours_to_double": relative(found, exact),
        "timm_to_double": relative(expected, exact),
        "double_to_double": "",
        "timm_double_to_itself": "",
        "state_dict": "identical" if is_identical else "differs",
    }
    if float(row["relative_error"]) > TOLERANCE:
        with double_precision():
            row["double_to_double"] = relative(answer(name, state, pixels)[0], exact)
        row["timm_double_to_itself"] = relative(again, exact)
    return row


def answer(name: str, state: dict[str, np.ndarray], pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns what our network answers, and whether the weights come back as they went in."""
    model = build_model(name, input_shape=pixels.shape[1:])
    load_reported(model, state)
    back = to_state_dict(model)
    is_identical = set(back) == set(state) and all(np.array_equal(back[key], state[key]) for key in state)
    del back
    return np.asarray(model(pixels, training=False)), is_identical


@contextlib.contextmanager
def double_precision():
    """Has Keras build and count in float64."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=500.0, help="most million parameters of a row")
    arguments = parser.parse_args()
    output = ROOT / "results" / "timm_rows.csv"
    done = {row["name"] for row in read_rows(output)}
    sizes = {name: row["parameters"] for name, row in json.loads(ROWS.read_text())["rows"].items()}
    names = [name for name in sizes if name not in done and sizes[name] <= 1e6 * arguments.largest]
    for number, name in enumerate(sorted(names, key=sizes.get), start=1):
        row = compare(name)
        append_row(output, {**row, "command": "python tests/weights/record_full_depth.py", **provenance.result_row()})
        print(f"[{number}/{len(names)}] {name} {row['relative_error']} {row['state_dict']}", flush=True)
        keras.backend.clear_session()
        gc.collect()


if __name__ == "__main__":
    main()
