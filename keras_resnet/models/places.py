"""Where a block stands in its network and which convolutions it has: what is settled before a layer is built.

Imports no Keras. References are in `config.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from keras_resnet.models.config import ResNetConfig


@dataclass(frozen=True)
class BlockPlace:
    """Where a block stands and what that asks of it.

    Attributes:
        name: Prefix of its layers' names, for example "stage3_block2".
        width: Base width of its stage.
        out_channels: Channels that leave it.
        stride: Its stride.
        dilation: Dilation of its spatial convolutions.
        first_dilation: Dilation of the convolution that would have strided.
        project: Whether its shortcut is not the identity.
        drop_path_rate: Chance with which a training example skips its residual branch.
        inner_drop_rate: Dropout between its convolutions (Zagoruyko 2016).
    """

    name: str
    width: int
    out_channels: int
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    project: bool = False
    drop_path_rate: float = 0.0
    inner_drop_rate: float = 0.0

    @property
    def dilates(self) -> bool:
        """Whether dilation took the place of this block's stride."""
        return self.first_dilation != self.dilation


class Convolution(NamedTuple):
    """One convolution of a residual branch, or what stands in its place.

    Attributes:
        filters: Channels that leave it; of one scale with "multi_scale".
        size: Side of its kernel.
        stride: Its own stride.
        dilation: Its dilation.
        groups: Its groups.
        use_bias: Whether it has a bias.
        is_spatial: Whether it is the one that `ResNetConfig.spatial` and `downsampling` speak of.
        pool_stride: Stride of the pool that `downsampling` puts beside it; 0 for no pool.
    """

    filters: int
    size: int
    stride: int
    dilation: int
    groups: int
    use_bias: bool
    is_spatial: bool = False
    pool_stride: int = 0


def convolutions(config: ResNetConfig, place: BlockPlace) -> list[Convolution]:
    """The branch's convolutions in order: what distinguishes basic from bottleneck."""
    inner, last = "inner" in config.conv_bias, "last" in config.conv_bias
    if config.block == "basic":
        return [
            _spatial(config, place, place.width, place.stride, 1, inner),
            Convolution(place.out_channels, 3, 1, place.dilation, 1, last),
        ]
    width = place.width * config.base_width // 64 * config.cardinality
    first = width * config.splits if config.spatial == "multi_scale" else width // config.first_reduction
    first_stride, stride = (place.stride, 1) if config.stride_conv == "first" else (1, place.stride)
    return [
        Convolution(first, 1, first_stride, 1, 1, inner),
        _spatial(config, place, width, stride, config.cardinality, inner),
        Convolution(place.out_channels, 1, 1, 1, 1, last),
    ]


def _spatial(
    config: ResNetConfig, place: BlockPlace, filters: int, stride: int, groups: int, use_bias: bool
) -> Convolution:
    pool_stride = 0
    if config.downsampling != "stride" and stride > 1:
        stride, pool_stride = 1, stride
    elif config.downsampling == "blur" and place.dilates:
        # As in timm the blur stays, pixel by pixel, where dilation took the stride's place.
        pool_stride = 1
    return Convolution(filters, 3, stride, place.first_dilation, groups, use_bias, True, pool_stride)
