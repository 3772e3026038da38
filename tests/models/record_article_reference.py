"""Records what the article's PyTorch listing computes, for `test_article.py`.

    python tests/models/record_article_reference.py ARTICLE.md tests/models/data/article_reference.npz

Takes the first Python listing of the article, fills its parameters with `article_weights` (below), runs it on
`article_images` in float32 and stores the output. Needs PyTorch (recorded with 2.13.0, CPU). The parameters are drawn
from a seed by name, so only the output is stored.
"""

import re
import sys
from pathlib import Path

import numpy as np

SHAPES = {  # PyTorch's names and layouts: (out, in, height, width)
    "conv1.weight": (64, 3, 3, 3),
    "conv1.bias": (64,),
    "conv2.weight": (64, 64, 3, 3),
    "conv2.bias": (64,),
    "residual.0.weight": (64, 64, 3, 3),
    "residual.0.bias": (64,),
    "residual.2.weight": (64, 64, 3, 3),
    "residual.2.bias": (64,),
}


def article_weights() -> dict[str, np.ndarray]:
    """Float32 parameters under PyTorch's names, scaled so that activations stay near 1."""
    generator = np.random.default_rng(20151210)
    weights = {}
    for name, shape in SHAPES.items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
        weights[name] = (generator.standard_normal(shape) / np.sqrt(fan_in)).astype("float32")
    return weights


def article_images() -> np.ndarray:
    """Float32 (2, 9, 12, 3) in -1..1: neither square nor even, so that swapped axes and borders show."""
    return np.random.default_rng(385).uniform(-1, 1, (2, 9, 12, 3)).astype("float32")


def record(article: Path, target: Path) -> None:
    """Runs the article's listing and stores its output as float32 (2, 9, 12, 64)."""
    import torch

    listing = re.search(r"```python\n(.*?)```", article.read_text(encoding="utf-8"), re.DOTALL).group(1)
    namespace = {}
    exec(compile(listing, str(article), "exec"), namespace)
    network = namespace["ResNet"]()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in article_weights().items()})
    images = torch.from_numpy(article_images().transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        output = network(images).numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(target, output=output, torch=torch.__version__)


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]))
