"""PyTorch's contestant of `benchmark.py train`: channels last, images normalized and in memory, all cores."""

import contextlib
import os
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from keras_resnet.benchmarks.torch_networks import Network, create_optimizer
from keras_resnet.benchmarks.turns import Contestant, Seconds
from keras_resnet.models.registry import get_config
from keras_resnet.training.recipes import Recipe

_AUTOCAST = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def make_torch(settings: dict[str, Any], side: int, steps: int, is_compiled: bool) -> Contestant:
    """Returns a training by PyTorch, eager or by `torch.compile`.

    Args:
        settings: A recipe's; half precisions are PyTorch's autocast.
        side: Of the images.
        steps: Steps of a round; the first is not timed.
        is_compiled: Whether network and loss go through `torch.compile`.

    Returns:
        The contestant.
    """
    recipe = Recipe.from_dict(settings)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.manual_seed(0)
    network = Network(get_config(recipe.model), 3, 10).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer(network, recipe)
    random = np.random.default_rng(0)
    shape = (recipe.batch_size, 3, side, side)
    images = torch.from_numpy(random.normal(size=shape).astype(np.float32)).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(random.integers(0, 10, recipe.batch_size)).long()

    def loss_of(batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        dtype = _AUTOCAST.get(recipe.precision)
        with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
            logits = network(batch)
        return F.cross_entropy(logits.float(), targets)

    compute = torch.compile(loss_of) if is_compiled else loss_of

    def one_round() -> Seconds:
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = compute(images, labels)
            loss.backward()
            optimizer.step()
            loss.item()
            if step == 0:
                began = time.perf_counter(), time.process_time()
        return Seconds(time.perf_counter() - began[0], time.process_time() - began[1])

    return one_round
