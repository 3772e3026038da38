"""The contestant of `benchmark.py budget` that trains with PyTorch: CIFAR's networks of He et al. 2015 with shortcut A.

Written as a careful user of PyTorch would for two cores: channels-last memory, images as 8-bit numbers in memory, each
batch cut and mirrored by one gather, all cores. Eager, as `torch.compile` needs a C++ compiler.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from keras_resnet.benchmarks.budget import Assignment, load_arrays
from keras_resnet.benchmarks.clock import BudgetClock
from keras_resnet.benchmarks.torch_networks import Network, create_optimizer
from keras_resnet.benchmarks.turns import Seconds
from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.training.recipes import Recipe, parse_milestones

_PADDING = 4  # pixels a side, for 32 × 32
_TEST_BATCH = 500


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate of schedule "step" after a part of the training, 0..1."""
    passed = sum(progress >= milestone for milestone in parse_milestones(recipe.milestones))
    return recipe.learning_rate * recipe.decay_factor**passed


def train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Takes one step and returns the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts each image by up to an eighth of its side, filling with black, and mirrors every other one at random.

    Args:
        images: uint8 [n, height, width, channels].
        generator: What it draws from.

    Returns:
        uint8 tensor of the same shape.
    """
    count, height, width, _ = images.shape
    pad_y, pad_x = (max(1, side * _PADDING // 32) for side in (height, width))

    def draw(limit: int) -> torch.Tensor:
        return torch.randint(limit, (count, 1), generator=generator)

    padded = F.pad(images, (0, 0, pad_x, pad_x, pad_y, pad_y))
    rows = torch.arange(height) + draw(2 * pad_y + 1)
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(draw(2) == 1, width - 1 - columns, columns) + draw(2 * pad_x + 1)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


class Normalize:
    """uint8 [n, height, width, channels] → normalized float32 [n, channels, height, width], channels last in memory."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self._mean = 255 * torch.tensor(mean).view(1, -1, 1, 1)
        self._scale = 1 / (255 * torch.tensor(std).view(1, -1, 1, 1))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images.permute(0, 3, 1, 2).float() - self._mean) * self._scale


def train(assignment: Assignment, clock_options: dict[str, Any]) -> None:
    """Trains with PyTorch by a recipe of schedule "step" and augmentation crop_flip.

    Args:
        assignment: What to train.
        clock_options: `record` and `show` of the clock.
    """
    recipe = assignment.recipe
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    data = load_arrays(assignment)
    network = Network(get_config(recipe.model), data.image_shape[-1], len(data.labels))
    network = network.to(memory_format=torch.channels_last)
    optimizer, as_input = create_optimizer(network, recipe), Normalize(data.mean, data.std)
    images, labels = torch.from_numpy(data.train.images), torch.from_numpy(data.train.labels).long()
    test_images, test_labels = torch.from_numpy(data.test.images), torch.from_numpy(data.test.labels)

    def test() -> tuple[float, Seconds]:
        network.eval()
        with torch.inference_mode():
            found = [network(as_input(part)).argmax(1) for part in test_images.split(_TEST_BATCH)]
        network.train()
        return float((torch.cat(found) == test_labels).float().mean()), Seconds(0.0, 0.0)

    batch_size = min(recipe.batch_size, len(labels))
    clock = BudgetClock(assignment.seconds, assignment.marks, test=test, **clock_options)
    clock.start()
    is_over = False
    while not is_over:
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order[: len(order) - len(order) % batch_size].split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, clock.progress)
            batch = as_input(crop_flip(images[chosen], generator))
            loss = train_step(network, optimizer, batch, labels[chosen])
            if not np.isfinite(loss):
                raise UserError(f"The loss of the contestant pytorch became {loss}. Lower learning_rate.")
            is_over = clock.step(batch_size)
            if is_over:
                break
