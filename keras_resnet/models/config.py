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
    Qiao et al. 2019, "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization",
        arXiv:1903.10520.
    Li et al. 2019, "Selective Kernel Networks", arXiv:1903.06586.
    Gao et al. 2019, "Res2Net: A New Multi-scale Backbone Architecture", arXiv:1904.01169.
    Zhang et al. 2020, "ResNeSt: Split-Attention Networks", arXiv:2004.08955.
"""

import dataclasses
from dataclasses import dataclass

from keras_resnet.errors import UserError, unknown_name

CHOICES = {
    "block": ("basic", "bottleneck"),
    "activation_order": ("post", "pre"),
    "stem": ("cifar", "imagenet", "deep", "tiered", "two_conv"),
    "stem_pool": ("none", "max", "max_zero_padded", "conv", "blur", "average"),
    "shortcut": (
        "pad",
        "projection",
        "plain_projection",
        "spatial_projection",
        "average_pool_projection",
        "average_pool_plain_projection",
        "none",
    ),
    "stride_conv": ("first", "spatial"),
    "stride_block": ("first", "last"),
    "padding": ("symmetric", "same"),
    "convolution": ("plain", "standardized"),
    "spatial": ("convolution", "split_attention", "selective_kernel", "multi_scale"),
    "attention": ("none", "se", "eca"),
    "downsampling": ("stride", "blur", "average", "average_3x3", "average_3x3_first"),
    "norm": ("batch", "sync_batch", "group", "none"),
    "last_gamma": ("ones", "zeros"),
}
BIASED_CONVOLUTIONS = ("stem", "inner", "last", "shortcut")
DEEP_STEMS = ("deep", "tiered")


_COUNTS = (
    "expansion",
    "cardinality",
    "base_width",
    "first_reduction",
    "stem_width",
    "splits",
    "se_floor",
    "num_classes",
)
# Field → what it must be above, and its largest value.
_RANGES = {"se_ratio": (0, 16), "norm_epsilon": (0, 1), "norm_momentum": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """One row of the registry, or a network of your own: everything that fixes a network's graph.

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
        first_reduction: Divisor of the first convolution's width in a bottleneck (SENet-154 has 2).
        stem: "cifar" 3×3 stride 1; "imagenet" 7×7 stride 2; "deep" three 3×3 (He 2019, -C and -D), half the width in
            the first two; "tiered" the same with three eighths in the first (timm's -T); "two_conv" two 3×3 without
            activation.
        stem_width: Channels that leave the stem.
        stem_pool: What halves the map after the stem; "max_zero_padded" pads with zeros where "max" ignores the
            border; "conv" is ResNet-RS' strided 3×3; "blur" a dense max pool and a blur; "average" the mean of 2×2.
        shortcut: "pad" (option A: subsample and pad channels with zeros), "projection" (option B: 1×1 and norm),
            "plain_projection" (1×1 without norm), "spatial_projection" (3×3 and norm where it strides, else 1×1),
            "average_pool_projection" (option D, He 2019), "average_pool_plain_projection" (the same without norm).
            "none" is the plain network that He 2015 compares with: nothing is added, x → H(x).
        project_first_block: Whether stage 1's first block has a projection even where shapes agree.
        stride_conv: Which convolution of a bottleneck strides: "first" (1×1, v1) or "spatial" (3×3, v1.5).
        stride_block: Which block of a stage strides: "first", or "last" as in keras.applications' V2.
        strides: Stride of each stage.
        padding: "symmetric" (as PyTorch and Caffe) or "same" (as TensorFlow: more at the far side at stride 2).
        convolution: "plain", or "standardized": every kernel has mean 0 and variance 1 (Qiao 2019).
        spatial: What a block has at the place of its first 3×3, normalisation and activation included: "convolution",
            "split_attention" (ResNeSt), "selective_kernel" (SK) or "multi_scale" (Res2Net).
        splits: Parts of the channels there: split attention's radix, the scales of "multi_scale", and with
            "selective_kernel" 2 where each of its two paths reads half of the channels, 1 where both read all.
        attention: "none", "se" (squeeze-excitation) or "eca".
        se_ratio: Reduced channels of squeeze-excitation over the block's output channels; of split attention and
            selective kernels over the channels that they choose from.
        se_floor: The fewest reduced channels.
        downsampling: What strided spatial convolutions become: "stride" (they stay), or dense ones with a pool behind
            their activation: "blur", "average" (2×2), "average_3x3" (ResNeSt); "average_3x3_first" has it in front.
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
    paper: str = ""
    group: str = ""
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    activation_order: str = "post"
    expansion: int = 4
    cardinality: int = 1
    base_width: int = 64
    first_reduction: int = 1
    stem: str = "imagenet"
    stem_width: int = 64
    stem_pool: str = "max"
    shortcut: str = "projection"
    project_first_block: bool = False
    stride_conv: str = "spatial"
    stride_block: str = "first"
    strides: tuple[int, ...] = (1, 2, 2, 2)
    padding: str = "symmetric"
    convolution: str = "plain"
    spatial: str = "convolution"
    splits: int = 1
    attention: str = "none"
    se_ratio: float = 1 / 16
    se_floor: int = 8
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
        for field in ("depths", "widths", "strides"):
            if min(getattr(self, field)) < 1:
                raise UserError(f"{field} must be positive, got {getattr(self, field)}.")
        for field in _COUNTS:
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}.")
        for field, (lowest, highest) in _RANGES.items():
            if not lowest < getattr(self, field) <= highest:
                raise UserError(f"{field} must be above {lowest} and at most {highest}, got {getattr(self, field)}.")
        self._check_groups()
        self._check_spatial()
        self._check_plain()

    def _check_groups(self) -> None:
        if self.block != "bottleneck":
            return
        for width in self.widths:
            inner = width * self.base_width // 64 * self.cardinality
            if inner < 1:
                raise UserError(
                    f"base_width must leave a channel a group: at least 64 / {width}, got {self.base_width}."
                )
            # The channels that the grouped convolution reads.
            groups = self.cardinality * (self.splits if self.spatial == "split_attention" else 1)
            read = inner if self.spatial == "multi_scale" else inner // self.first_reduction
            if read < 1 or read % groups:
                raise UserError(
                    f"{groups} groups cannot share the {read} channels inside a block of width {width}. Change "
                    "cardinality, base_width, widths, splits or first_reduction so that they divide evenly."
                )

    def _check_spatial(self) -> None:
        if self.spatial == "convolution":
            return
        if self.activation_order != "post":
            raise UserError(
                f"spatial {self.spatial!r} ends in a normalisation and an activation: it needs activation_order "
                f"'post', got {self.activation_order!r}."
            )
        if self.spatial != "selective_kernel" and self.block != "bottleneck":
            raise UserError(f"spatial {self.spatial!r} needs block 'bottleneck', got {self.block!r}.")
        fewest, most = {"split_attention": (1, 64), "selective_kernel": (1, 2), "multi_scale": (2, 64)}[self.spatial]
        if not fewest <= self.splits <= most:
            raise UserError(f"splits of {self.spatial!r} go from {fewest} to {most}, got {self.splits}.")

    def _check_plain(self) -> None:
        if self.shortcut != "none":
            return
        for field, is_set, reason in (
            ("last_gamma 'zeros'", self.last_gamma == "zeros", "every block of a plain network would return zeros"),
            ("project_first_block", self.project_first_block, "a plain network has no shortcut to project"),
            ("conv_bias 'shortcut'", "shortcut" in self.conv_bias, "a plain network has no convolution there"),
        ):
            if is_set:
                raise UserError(f"{field} needs a shortcut, got shortcut 'none': {reason}. Leave one of them out.")

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
        conv = 2 if self.stem in ("imagenet", *DEEP_STEMS) else 1
        return conv * (1 if self.stem_pool == "none" else 2)

    @property
    def total_stride(self) -> int:
        """Pixels of input a pixel of the last feature map, along one side."""
        stride = self.stem_stride
        for step in self.strides:
            stride *= step
        return stride
