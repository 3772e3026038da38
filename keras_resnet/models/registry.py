"""The table of networks: name → `ResNetConfig`, grouped by paper.

A new variant is a new row. Nothing here imports Keras, so names resolve and complain at once.
"""

import fnmatch

from keras_resnet.errors import unknown_name
from keras_resnet.models.config import ResNetConfig

HE_2015 = "He et al. 2015, arXiv:1512.03385"
HE_2016 = "He et al. 2016, arXiv:1603.05027"
WRN_2016 = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
XIE_2017 = "Xie et al. 2017, arXiv:1611.05431"
HU_2018 = "Hu et al. 2018, arXiv:1709.01507"
HE_2019 = "He et al. 2019, arXiv:1812.01187"
ZHANG_2019 = "Zhang 2019, arXiv:1904.11486"
WANG_2020 = "Wang et al. 2020, arXiv:1910.03151"
BELLO_2021 = "Bello et al. 2021, arXiv:2103.07579"
BANBURY_2021 = "Banbury et al. 2021, arXiv:2106.07597"

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR = {
    "stem": "cifar",
    "stem_pool": "none",
    "strides": (1, 2, 2),
    "input_shape": (32, 32, 3),
    "num_classes": 10,
}
# keras.applications' V1: stride on the first 1×1, a bias in every convolution, its own epsilon and momentum.
KERAS = {"norm_epsilon": 1.001e-5, "norm_momentum": 0.99}
KERAS_V1 = {"stride_conv": "first", "conv_bias": ("stem", "inner", "last", "shortcut"), **KERAS}
KERAS_V2 = {
    "activation_order": "pre",
    "stem_norm": False,
    "stem_pool": "max_zero_padded",
    "shortcut": "plain_projection",
    "project_first_block": True,
    "stride_block": "last",
    "strides": (2, 2, 2, 1),
    "conv_bias": ("stem", "last", "shortcut"),
    **KERAS,
}
TIMM_V2 = {
    "activation_order": "pre",
    "stem_norm": False,
    "shortcut": "plain_projection",
    "project_first_block": True,
}
DEEP_STEM = {"stem": "deep"}
D_TRICKS = {"stem": "deep", "shortcut": "average_pool_projection"}
RESNET_RS = {**D_TRICKS, "stem_pool": "conv", "attention": "se", "se_ratio": 0.25}

# Function → network. The six names that keras.applications has are its own networks (stride on the first 1×1, biases),
# so that the same weights give the same numbers; `create_model("resnet50")` is the v1.5 network of torchvision.
FUNCTIONS = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50_v1",
    "ResNet101": "resnet101_v1",
    "ResNet152": "resnet152_v1",
    "ResNet200": "resnet200",
    "ResNet50V2": "resnetv2_50",
    "ResNet101V2": "resnetv2_101",
    "ResNet152V2": "resnetv2_152",
    "ResNet18D": "resnet18d",
    "ResNet34D": "resnet34d",
    "ResNet50C": "resnet50c",
    "ResNet50D": "resnet50d",
    "ResNet101D": "resnet101d",
    "ResNeXt50": "resnext50_32x4d",
    "ResNeXt101": "resnext101_32x8d",
    "WideResNet50": "wide_resnet50_2",
    "WideResNet101": "wide_resnet101_2",
    "SEResNet50": "seresnet50",
    "SEResNeXt50": "seresnext50_32x4d",
    "ECAResNet50D": "ecaresnet50d",
    "ResNetBlur50": "resnetblur50",
    "ResNetRS50": "resnetrs50",
    "ResNetRS101": "resnetrs101",
    "ResNetRS152": "resnetrs152",
    "ResNetRS200": "resnetrs200",
    "ResNetRS270": "resnetrs270",
    "ResNetRS350": "resnetrs350",
    "ResNetRS420": "resnetrs420",
}


def _imagenet(name: str, paper: str, group: str, depth: int, **fields) -> ResNetConfig:
    block = "basic" if depth in (18, 34) else "bottleneck"
    return ResNetConfig(
        **{
            "name": name,
            "paper": paper,
            "group": group,
            "block": block,
            "depths": DEPTHS[depth],
            "widths": IMAGENET_WIDTHS,
            **fields,
        }
    )


def _cifar(name: str, paper: str, group: str, blocks: int, width: int = 16, **fields) -> ResNetConfig:
    return ResNetConfig(
        **{
            "name": name,
            "paper": paper,
            "group": group,
            "block": "basic",
            "depths": (blocks,) * 3,
            "widths": (width, 2 * width, 4 * width),
            "stem_width": 16,
            **CIFAR,
            **fields,
        }
    )


def _rows() -> list[ResNetConfig]:
    rows = []
    for depth in (8, 20, 32, 44, 56, 110, 1202):
        blocks = (depth - 2) // 6
        rows.append(_cifar(f"resnet{depth}", HE_2015, "CIFAR v1", blocks, shortcut="pad"))
        rows.append(_cifar(f"resnet{depth}_b", HE_2015, "CIFAR v1", blocks))

    pre = {"activation_order": "pre", "stem_norm": False}
    for depth in (20, 56, 110):
        blocks = (depth - 2) // 6
        rows.append(_cifar(f"resnetv2_{depth}", HE_2016, "CIFAR v2", blocks, shortcut="pad", **pre))
    for depth in (164, 1001):
        row = _cifar(f"resnetv2_{depth}", HE_2016, "CIFAR v2", (depth - 2) // 9, **pre)
        rows.append(row.replace(block="bottleneck", shortcut="plain_projection"))

    for depth, factor in ((16, 4), (16, 8), (28, 10), (40, 2)):
        row = _cifar(f"wrn_{depth}_{factor}", WRN_2016, "CIFAR wide", (depth - 4) // 6, 16 * factor, **pre)
        rows.append(row.replace(shortcut="plain_projection"))

    for depth in (18, 34, 50, 101, 152, 200):
        rows.append(_imagenet(f"resnet{depth}", HE_2015, "ImageNet v1.5", depth))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnet{depth}_v1", HE_2015, "ImageNet v1", depth, **KERAS_V1))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnetv2_{depth}", HE_2016, "ImageNet v2", depth, **KERAS_V2))
    for depth in (50, 101):
        rows.append(_imagenet(f"resnetv2_{depth}_timm", HE_2016, "ImageNet v2", depth, **TIMM_V2))

    for depth, groups, width in ((50, 32, 4), (101, 32, 8), (101, 64, 4)):
        name = f"resnext{depth}_{groups}x{width}d"
        rows.append(_imagenet(name, XIE_2017, "ResNeXt", depth, cardinality=groups, base_width=width))
    row = _cifar("resnext29_8x64d", XIE_2017, "ResNeXt", 3, 64, block="bottleneck", stem_width=64)
    rows.append(row.replace(cardinality=8, base_width=64))

    for depth in (50, 101):
        rows.append(_imagenet(f"wide_resnet{depth}_2", WRN_2016, "Wide", depth, base_width=128))

    for depth in (18, 34):
        rows.append(_imagenet(f"resnet{depth}d", HE_2019, "-C / -D", depth, **D_TRICKS))
    rows.append(_imagenet("resnet50c", HE_2019, "-C / -D", 50, **DEEP_STEM))
    for depth in (50, 101):
        rows.append(_imagenet(f"resnet{depth}d", HE_2019, "-C / -D", depth, **D_TRICKS))

    for depth in (18, 34, 50, 101, 152):
        rows.append(_imagenet(f"seresnet{depth}", HU_2018, "SE, ECA", depth, attention="se"))
    grouped = {"cardinality": 32, "base_width": 4}
    rows.append(_imagenet("seresnext50_32x4d", HU_2018, "SE, ECA", 50, attention="se", **grouped))
    rows.append(_imagenet("ecaresnet50d", WANG_2020, "SE, ECA", 50, attention="eca", **D_TRICKS))

    blur = {"downsampling": "blur", "stem_pool": "blur"}
    rows.append(_imagenet("resnetblur50", ZHANG_2019, "anti-aliased", 50, **blur))

    # Depths and input sizes: Bello 2021, table 6 and appendix.
    for depth, depths, size in (
        (50, (3, 4, 6, 3), 160),
        (101, (3, 4, 23, 3), 192),
        (152, (3, 8, 36, 3), 256),
        (200, (3, 24, 36, 3), 256),
        (270, (4, 29, 53, 4), 256),
        (350, (4, 36, 72, 4), 288),
        (420, (4, 44, 87, 4), 320),
    ):
        row = _imagenet(f"resnetrs{depth}", BELLO_2021, "ResNet-RS", 50, **RESNET_RS)
        rows.append(row.replace(depths=depths, input_shape=(size, size, 3)))

    rows.append(
        _cifar(
            "resnet8_mlperf_tiny",
            BANBURY_2021,
            "microcontrollers",
            1,
            shortcut="plain_projection",
            padding="same",
            conv_bias=("stem", "inner", "last", "shortcut"),
            norm_epsilon=1e-3,
            norm_momentum=0.99,
        )
    )
    rows.append(
        ResNetConfig(
            name="article_resnet",
            paper="the article's PyTorch listing",
            group="the article's",
            block="basic",
            depths=(1,),
            widths=(64,),
            stem="two_conv",
            stem_width=64,
            stem_pool="none",
            stem_norm=False,
            strides=(1,),
            norm="none",
            conv_bias=("stem", "inner", "last"),
            input_shape=(32, 32, 3),
            num_classes=10,
        )
    )
    return rows


REGISTRY: dict[str, ResNetConfig] = {row.name: row for row in _rows()}


def get_config(name: str) -> ResNetConfig:
    """Looks a network up by name.

    Args:
        name: A name of the table, or a .json file of a network that is not in it, see `config_files`.

    Raises:
        UserError: If there is no such network, the message names the closest ones; or the file is wrong.
    """
    from keras_resnet.models.config_files import is_config_file, load_config  # which reads the table itself

    if is_config_file(name):
        return load_config(name)
    try:
        return REGISTRY[name]
    except (KeyError, TypeError):
        raise unknown_name("model", name, REGISTRY) from None


def list_models(pattern: str = "*") -> list[str]:
    """Lists registered networks.

    Args:
        pattern: Shell-style pattern, for example "resnet*" or "*_b".

    Returns:
        The matching names, in the table's order.
    """
    return [name for name in REGISTRY if fnmatch.fnmatchcase(name, pattern)]
