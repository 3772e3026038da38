"""Records rows.json: what timm 1.0.31 builds under the names of our table, for `test_rows.py`.

Sizes and names of all, logits of shallow ones. Run from the checkout where timm, torchvision and PyTorch are installed
(recorded with 1.0.31, 0.28.0 and 2.13.0, CPU; a few minutes): `python tests/weights/record_rows.py`. Weights are
`named_tensors`, so only logits are stored.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

for operator in (
    "nms",
    "qnms",
):  # torchvision's binary cannot register them beside this PyTorch, and nothing here calls
    torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from named_tensors import CLASSES, images, tensor  # noqa: E402
from timm.models import res2net, resnest, resnet, resnetv2, sknet  # noqa: E402

from keras_resnet.models.registry import REGISTRY  # noqa: E402

SIZE = 64
DEPTHS = (1, 2, 1, 1)  # the first block of a stage and one that follows it
LARGEST = 40_000_000  # parameters of a shallow network that CI builds
# Dilation in the place of strides, for every kind of layer that answers to it.
DILATED = {
    "resnetblur18": 8,
    "resnetaa50d": 16,
    "senet154": 8,
    "resnetv2_50d": 8,
    "resnetv2_50x1_bit": 16,
    "resnest14d": 8,
    "resnest50d_4s2x40d": 16,
    "skresnet18": 8,
    "skresnext50_32x4d": 16,
    "res2net50_26w_4s": 8,
}


def timm_name(name: str) -> str | None:
    """timm's name of a row; None for networks that timm does not have or has otherwise."""
    known = name.removesuffix("_timm")
    is_keras = REGISTRY[name].stride_block == "last"
    return known if timm.is_model(known) and not is_keras else None


@contextlib.contextmanager
def arguments(**changes):
    """Has timm's functions build with other arguments than their own."""
    modules = (resnet, resnetv2, resnest, sknet, res2net)
    build = resnet.build_model_with_cfg
    for module in modules:
        module.build_model_with_cfg = lambda *args, **options: build(*args, **{**options, **changes})
    try:
        yield
    finally:
        for module in modules:
            module.build_model_with_cfg = build


def described(name: str) -> dict:
    """Size, cost and names of timm's network."""
    multiply_adds = 0

    def count(module, _, output):
        nonlocal multiply_adds
        multiply_adds += output.numel() * (module.weight.numel() // module.weight.shape[0])

    with torch.device("meta"):
        model = timm.create_model(timm_name(name)).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        height, width, channels = REGISTRY[name].input_shape
        model(torch.zeros(1, channels, height, width))
    state = model.state_dict()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    return {
        "timm": timm_name(name),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": multiply_adds,
        "names": len(state),
        "names_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def logits(name: str, **options) -> list[list[float]]:
    """What timm's network answers with named tensors as weights."""
    model = timm.create_model(timm_name(name), num_classes=CLASSES, **options).eval()
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.from_numpy(tensor(key, tuple(value.shape))))
    with torch.no_grad():
        found = model(torch.from_numpy(images(size=SIZE).transpose(0, 3, 1, 2).copy())).numpy()
    return [[float(np.format_float_positional(value, unique=True)) for value in row] for row in found]


def shallow() -> dict[str, dict]:
    """Logits of networks of five blocks: one of all that differ in nothing but depth."""
    found, seen = {}, set()
    for name, config in REGISTRY.items():
        if timm_name(name) is None:
            continue
        plain = {"name": "", "paper": "", "group": "", "depths": DEPTHS, "input_shape": (SIZE, SIZE, 3)}
        key = dataclasses.astuple(config.replace(**plain))
        with arguments(layers=DEPTHS):
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in timm.create_model(timm_name(name)).parameters())
            if key in seen or size > LARGEST:
                continue
            seen.add(key)
            found[name] = {"options": {}, "logits": logits(name)}
            if name in DILATED:
                options = {"output_stride": DILATED[name]}
                found[f"{name}@stride{DILATED[name]}"] = {"options": options, "logits": logits(name, **options)}
        print(name, flush=True)
    return found


def write(path: Path, sections: dict) -> None:
    """Writes JSON with a line for each network."""
    parts = []
    for section, entries in sections.items():
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
        parts.append(f" {json.dumps(section)}: {{\n{lines}\n }}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    print(f"{path} {path.stat().st_size} bytes")


def main() -> None:
    versions = {package.__name__: package.__version__ for package in (torch, timm, np)}
    rows = [name for name in REGISTRY if timm_name(name) is not None]
    write(
        HERE / "rows.json",
        {"versions": versions, "rows": {name: described(name) for name in rows}, "shallow": shallow()},
    )


if __name__ == "__main__":
    main()
