"""What makes one residual network differ from another: the frozen `ResNetConfig`.

References:
    He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
    He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
    Zagoruyko and Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146.
    Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks", arXiv:1611.05431.
    He et al. 2019, "Bag of Tricks for Image Classification with Convolutional Neural Networks", arXiv:1812.01187.
    Hu et al. 2018, "Squeeze-and-Excitation Networks", arXiv:1709.01507.
    Wang et al. 2020, "ECA-Net: Efficient Channel Attention", arXiv:1910.03151.
    Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", arXiv:1904.11486.
    Bello et al. 2021, "Revisiting ResNets: Improved Training and Scaling Strategies", arXiv:2103.07579.
"""

import dataclasses
from dataclasses import dataclass

from keras_resnet.errors import UserError, unknown_name

CHOICES = {
    "block": ("basic", "bottleneck"),
    "activation_order": ("post", "pre"),
    "stem": ("cifar", "imagenet", "deep", "two_conv"),
    "stem_pool": ("none", "max", "max_zero_padded", "conv", "blur"),
    "shortcut": ("pad", "projection", "plain_projection", "average_pool_projection"),
    "stride_conv": ("first", "spatial"),
    "stride_block": ("first", "last"),
    "padding": ("symmetric", "same"),
    "attention": ("none", "se", "eca"),
    "downsampling": ("stride", "blur"),
    "norm": ("batch", "sync_batch", "group", "none"),
    "last_gamma": ("ones", "zeros"),
}
BIASED_CONVOLUTIONS = ("stem", "inner", "last", "shortcut")


@dataclass(frozen=True)
class ResNetConfig:
    """One row of the registry: everything that fixes a network's graph.

    Attributes:
        name: Registry name, as upstream spells it.
        paper: Where the variant was published.
        group: Family under which it is listed.
        block: "basic" (two 3×3) or "bottleneck" (1×1, 3×3, 1×1).
        activation_order: "post" (He 2015) or "pre" (He 2016).
        depths: Blocks in each stage.
        widths: Base width of each stage; a bottleneck's output has `expansion` times as many channels.
        expansion: Ratio of a bottleneck's output channels to its stage's base width.
        cardinality: Groups of the spatial convolution (Xie 2017).
        base_width: Channels a group at base width 64: a bottleneck's inner width is
            ⌊width · base_width / 64⌋ · cardinality.
        stem: "cifar" 3×3 stride 1; "imagenet" 7×7 stride 2; "deep" three 3×3 (He 2019, -C and -D);
            "two_conv" two 3×3 without activation.
        stem_width: Channels that leave the stem.
        stem_pool: What halves the map after the stem; "max_zero_padded" pads with zeros where "max" ignores the
            border; "conv" is ResNet-RS' strided 3×3; "blur" a dense max pool and a blur.
        shortcut: "pad" (option A: subsample and pad channels with zeros), "projection" (option B: 1×1 and norm),
            "plain_projection" (1×1 without norm), "average_pool_projection" (option D, He 2019).
        project_first_block: Whether stage 1's first block has a projection even where shapes agree.
        stride_conv: Which convolution of a bottleneck strides: "first" (1×1, v1) or "spatial" (3×3, v1.5).
        stride_block: Which block of a stage strides: "first", or "last" as in keras.applications' V2.
        strides: Stride of each stage.
        padding: "symmetric" (as PyTorch and Caffe) or "same" (as TensorFlow: more at the far side at stride 2).
        attention: "none", "se" (squeeze-excitation) or "eca".
        se_ratio: Reduced channels of squeeze-excitation over the block's output channels.
        downsampling: "stride", or "blur": strided convolutions become dense ones with a blur behind.
        norm: Normalisation of every convolution.
        norm_epsilon: Added to the variance.
        norm_momentum: Keras' momentum of the moving statistics (1 − PyTorch's).
        stem_norm: Whether normalisation and activation follow the stem's convolution.
        conv_bias: Which convolutions have a bias: any of "stem", "inner", "last", "shortcut".
        activation: Name of a Keras activation.
        last_gamma: Initial scale of each block's last normalisation; "zeros" makes a block start as identity
            (Goyal 2017, section 5.1).
        input_shape: Default (height, width, channels).
        num_classes: Default number of classes.
    """

    name: str
    paper: str
    group: str
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    activation_order: str = "post"
    expansion: int = 4
    cardinality: int = 1
    base_width: int = 64
    stem: str = "imagenet"
    stem_width: int = 64
    stem_pool: str = "max"
    shortcut: str = "projection"
    project_first_block: bool = False
    stride_conv: str = "spatial"
    stride_block: str = "first"
    strides: tuple[int, ...] = (1, 2, 2, 2)
    padding: str = "symmetric"
    attention: str = "none"
    se_ratio: float = 1 / 16
    downsampling: str = "stride"
    norm: str = "batch"
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.9
    stem_norm: bool = True
    conv_bias: tuple[str, ...] = ()
    activation: str = "relu"
    last_gamma: str = "ones"
    input_shape: tuple[int, int, int] = (224, 224, 3)
    num_classes: int = 1000

    def __post_init__(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise unknown_name(field, getattr(self, field), choices)
        for place in self.conv_bias:
            if place not in BIASED_CONVOLUTIONS:
                raise unknown_name("conv_bias", place, BIASED_CONVOLUTIONS)
        if not self.depths or not len(self.depths) == len(self.widths) == len(self.strides):
            raise UserError(
                "depths, widths and strides need one entry per stage, all of the same length, got "
                f"{len(self.depths)}, {len(self.widths)} and {len(self.strides)}."
            )
        if min(self.depths) < 1 or min(self.widths) < 1:
            raise UserError(f"depths and widths must be positive, got {self.depths} and {self.widths}.")

    def replace(self, **changes) -> "ResNetConfig":
        """Returns a copy with some fields changed, validated anew.

        Raises:
            UserError: If a field does not exist or a value is not among its choices.
        """
        fields = {field.name for field in dataclasses.fields(self)}
        for key in changes:
            if key not in fields:
                raise unknown_name("ResNetConfig field", key, fields)
        return dataclasses.replace(self, **changes)

    def out_channels(self, stage: int) -> int:
        """Channels that leave stage `stage` (counted from 0)."""
        return self.widths[stage] * (self.expansion if self.block == "bottleneck" else 1)

    @property
    def stem_stride(self) -> int:
        """Pixels of input a pixel of the first stage's input, along one side."""
        conv = 2 if self.stem in ("imagenet", "deep") else 1
        return conv * (1 if self.stem_pool == "none" else 2)

    @property
    def total_stride(self) -> int:
        """Pixels of input a pixel of the last feature map, along one side."""
        stride = self.stem_stride
        for step in self.strides:
            stride *= step
        return stride
