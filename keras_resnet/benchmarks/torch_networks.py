"""The networks that PyTorch trains beside ours: post-activation ResNets with basic or bottleneck blocks, as modules.

Written as torchvision and CIFAR's usual repositories have them, with their names, so that `weights.pytorch` carries
weights over and both compute the same.
"""

import torch
from torch import nn
from torch.nn import functional as F

from keras_resnet.errors import UserError
from keras_resnet.models.config import ResNetConfig
from keras_resnet.training.recipes import Recipe

_SAME = {  # what these modules take for granted
    "activation_order": "post",
    "cardinality": 1,
    "stem_norm": True,
    "stride_conv": "spatial",
    "stride_block": "first",
    "padding": "symmetric",
    "convolution": "plain",
    "spatial": "convolution",
    "attention": "none",
    "downsampling": "stride",
    "norm": "batch",
    "activation": "relu",
    "project_first_block": False,
    "conv_bias": (),
}
# (stem, shortcut, pool behind the stem) → the name of the last layer.
_HEADS = {("cifar", "pad", "none"): "linear", ("imagenet", "projection", "max"): "fc"}


def _conv(before: int, after: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, side, stride, side // 2, bias=False)


class _Block(nn.Module):
    def __init__(self, before: int, width: int, after: int, stride: int, *, is_bottleneck: bool, projects: bool):
        super().__init__()
        self.stride, self.added, self.is_bottleneck = stride, after - before, is_bottleneck
        self.conv1 = _conv(before, width, 1) if is_bottleneck else _conv(before, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride if is_bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(width)
        if is_bottleneck:
            self.conv3 = _conv(width, after, 1)
            self.bn3 = nn.BatchNorm2d(after)
        self.downsample = None
        if projects and (stride > 1 or before != after):
            self.downsample = nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.is_bottleneck:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        if self.downsample is not None:
            x = self.downsample(x)
        else:
            if self.stride > 1:
                x = x[:, :, :: self.stride, :: self.stride]
            if self.added:
                x = F.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return F.relu(x + y, inplace=True)


class Network(nn.Module):
    """A post-activation ResNet; its modules have the names of `weights.pytorch`'s naming "cifar" or "timm".

    Args:
        config: A network of the model table: CIFAR's stem with shortcut A, or ImageNet's with projections.
        channels: Of the images.
        classes: Number of classes.

    Raises:
        UserError: The network is of another kind.
    """

    def __init__(self, config: ResNetConfig, channels: int, classes: int):
        super().__init__()
        head = _HEADS.get((config.stem, config.shortcut, config.stem_pool))
        if head is None or any(getattr(config, field) != value for field, value in _SAME.items()):
            raise UserError(f"PyTorch is compared on networks such as resnet20 and resnet50, got {config.name}.")
        before = config.stem_width
        is_imagenet, is_bottleneck = config.stem == "imagenet", config.block == "bottleneck"
        self.conv1 = _conv(channels, before, 7, 2) if is_imagenet else _conv(channels, before, 3)
        self.bn1 = nn.BatchNorm2d(before)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if is_imagenet else nn.Identity()
        places = zip(config.depths, config.widths, config.strides, strict=True)
        for stage, (depth, width, stride) in enumerate(places, start=1):
            after = width * config.expansion if is_bottleneck else width
            options = {"is_bottleneck": is_bottleneck, "projects": config.shortcut == "projection"}
            first = _Block(before, width, after, stride, **options)
            others = [_Block(after, width, after, 1, **options) for _ in range(depth - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *others))
            before = after
        self.stages, self.head = len(config.depths), head
        setattr(self, head, nn.Linear(before, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(getattr(self, head).bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits, float32 [batch, classes], of normalized images [batch, channels, height, width]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def create_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Builds SGD as the recipe has it: L2 decay of kernels alone, through the momentum."""
    kernels = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in network.parameters() if parameter.dim() == 1]
    return torch.optim.SGD(
        [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum_form == "nesterov",
    )
