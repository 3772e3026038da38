"""Records references.json: logits and names of torchvision's and timm's networks with `named_tensors` as weights.

Run where torchvision 0.28 and timm 1.0.31 are installed: `python tests/weights/record_references.py`.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from named_tensors import CLASSES, images, tensor

# our name → (package, its name, options of its builder)
MODELS = {
    "resnet18": ("torchvision", "resnet18", {}),
    "resnet50": ("torchvision", "resnet50", {}),
    "resnext50_32x4d": ("torchvision", "resnext50_32x4d", {}),
    "wide_resnet50_2": ("torchvision", "wide_resnet50_2", {}),
    "resnet50@stride16": ("timm", "resnet50", {"output_stride": 16}),
    "resnet50d@stride8": ("timm", "resnet50d", {"output_stride": 8}),
    "resnet18d": ("timm", "resnet18d", {}),
    "resnet50c": ("timm", "resnet50c", {}),
    "resnet50d": ("timm", "resnet50d", {}),
    "seresnet50": ("timm", "seresnet50", {}),
    "ecaresnet50d": ("timm", "ecaresnet50d", {}),
    "resnetblur50": ("timm", "resnetblur50", {}),
    "resnetrs50": ("timm", "resnetrs50", {}),
    "resnetv2_50_timm": ("timm", "resnetv2_50", {}),
}


def _build(package: str, name: str, options: dict) -> torch.nn.Module:
    if package == "torchvision":
        return getattr(torchvision.models, name)(num_classes=CLASSES, **options)
    return timm.create_model(name, num_classes=CLASSES, **options)


def _names_digest(state: dict) -> str:
    lines = sorted(f"{name} {tuple(value.shape)} {str(value.dtype).split('.')[1]}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main() -> None:
    references = {"versions": {p.__name__: p.__version__ for p in (torch, torchvision, timm, np)}, "models": {}}
    pixels = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
    for key, (package, name, options) in MODELS.items():
        model = _build(package, name, options).eval()
        state = model.state_dict()
        digest = _names_digest(state)
        model.load_state_dict(
            {k: torch.from_numpy(tensor(k, tuple(v.shape))) if v.is_floating_point() else v for k, v in state.items()}
        )
        with torch.no_grad():
            logits = model(pixels).numpy()
        references["models"][key] = {
            "package": package,
            "name": name,
            "options": options,
            "names": len(state),
            "names_sha256": digest,
            "logits": [[float(np.format_float_positional(v, unique=True)) for v in row] for row in logits],
        }
        print(f"{key:20} {package}.{name} max |logit| {np.abs(logits).max():.3g} std {logits.std():.3g}")
    path = Path(__file__).with_name("references.json")
    path.write_text(json.dumps(references, indent=1) + "\n")
    print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
