"""The table of networks: name → `ResNetConfig`, grouped by paper.

A new variant is a new row. Nothing here imports Keras, so names resolve and complain at once. It has every network of
timm 1.0.31's `resnet`, `resnetv2`, `resnest`, `sknet` and `res2net` but the two pruned ones, the two with
normalisations of their own (`_evos`, `_frn`) and `test_resnet`.
"""

import fnmatch
import os
from typing import Any

from keras_resnet.errors import unknown_name
from keras_resnet.models.config import ResNetConfig

Fields = dict[str, Any]  # of `ResNetConfig`

HE_2015 = "He et al. 2015, arXiv:1512.03385"
HE_2016 = "He et al. 2016, arXiv:1603.05027"
WRN_2016 = "Zagoruyko and Komodakis 2016, arXiv:1605.07146"
XIE_2017 = "Xie et al. 2017, arXiv:1611.05431"
HU_2018 = "Hu et al. 2018, arXiv:1709.01507"
WU_2018 = "Wu and He 2018, arXiv:1803.08494"
HE_2019 = "He et al. 2019, arXiv:1812.01187"
ZHANG_2019 = "Zhang 2019, arXiv:1904.11486"
LI_2019 = "Li et al. 2019, arXiv:1903.06586"
GAO_2019 = "Gao et al. 2019, arXiv:1904.01169"
WIGHTMAN_2019 = "Wightman 2019, timm, doi:10.5281/zenodo.4414861"
WANG_2020 = "Wang et al. 2020, arXiv:1910.03151"
KOLESNIKOV_2020 = "Kolesnikov et al. 2020, arXiv:1912.11370"
ZHANG_2020 = "Zhang et al. 2020, arXiv:2004.08955"
BELLO_2021 = "Bello et al. 2021, arXiv:2103.07579"
BANBURY_2021 = "Banbury et al. 2021, arXiv:2106.07597"

DEPTHS = {
    10: (1, 1, 1, 1),
    14: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    201: (3, 24, 36, 4),
    269: (3, 30, 48, 8),
}
IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR: Fields = {
    "stem": "cifar",
    "stem_pool": "none",
    "strides": (1, 2, 2),
    "input_shape": (32, 32, 3),
    "num_classes": 10,
}
# keras.applications' V1: stride on the first 1×1, a bias in every convolution, its own epsilon and momentum.
KERAS: Fields = {"norm_epsilon": 1.001e-5, "norm_momentum": 0.99}
KERAS_V1: Fields = {"stride_conv": "first", "conv_bias": ("stem", "inner", "last", "shortcut"), **KERAS}
KERAS_V2: Fields = {
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
TIMM_V2: Fields = {
    "activation_order": "pre",
    "stem_norm": False,
    "shortcut": "plain_projection",
    "project_first_block": True,
}
TIMM_V2_D: Fields = {**TIMM_V2, "stem": "deep", "shortcut": "average_pool_plain_projection"}
# A timm basic block projects only where shapes differ.
BASIC: Fields = {"project_first_block": False}
BIT: Fields = {**TIMM_V2, "stem_pool": "max_zero_padded", "norm": "group", "convolution": "standardized"}
DEEP_STEM: Fields = {"stem": "deep"}
S_STEM: Fields = {"stem": "deep", "stem_width": 128}
D_TRICKS: Fields = {"stem": "deep", "shortcut": "average_pool_projection"}
T_TRICKS: Fields = {"stem": "tiered", "shortcut": "average_pool_projection"}
BLUR: Fields = {"downsampling": "blur", "stem_pool": "blur"}
AVERAGE: Fields = {"downsampling": "average", "stem_pool": "average"}
RESNET_RS: Fields = {**D_TRICKS, "stem_pool": "conv", "attention": "se", "se_ratio": 0.25}
RESNEST: Fields = {
    **D_TRICKS,
    "spatial": "split_attention",
    "splits": 2,
    "se_ratio": 0.25,
    "se_floor": 32,
    "downsampling": "average_3x3",
}

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
    block = "basic" if depth in (10, 18, 34) else "bottleneck"
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


def _cifar(name: str, paper: str, group: str, blocks: int, width: int = 16, **fields: Any) -> ResNetConfig:
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


def _grouped(cardinality: int, base_width: int) -> dict[str, int]:
    return {"cardinality": cardinality, "base_width": base_width}


def _cifar_rows() -> list[ResNetConfig]:
    rows = []
    for depth in (8, 20, 32, 44, 56, 110, 1202):
        blocks = (depth - 2) // 6
        rows.append(_cifar(f"resnet{depth}", HE_2015, "CIFAR v1", blocks, shortcut="pad"))
        rows.append(_cifar(f"resnet{depth}_b", HE_2015, "CIFAR v1", blocks))

    pre: dict[str, Any] = {"activation_order": "pre", "stem_norm": False}
    for depth in (20, 56, 110):
        blocks = (depth - 2) // 6
        rows.append(_cifar(f"resnetv2_{depth}", HE_2016, "CIFAR v2", blocks, shortcut="pad", **pre))
    for depth in (164, 1001):
        row = _cifar(f"resnetv2_{depth}", HE_2016, "CIFAR v2", (depth - 2) // 9, **pre)
        rows.append(row.replace(block="bottleneck", shortcut="plain_projection"))

    for depth, factor in ((16, 4), (16, 8), (28, 10), (40, 2)):
        row = _cifar(f"wrn_{depth}_{factor}", WRN_2016, "CIFAR wide", (depth - 4) // 6, 16 * factor, **pre)
        rows.append(row.replace(shortcut="plain_projection"))
    return rows


def _plain_rows() -> list[ResNetConfig]:
    """ImageNet's networks without attention."""
    rows = []
    for depth in (18, 26, 34, 50, 101, 152, 200):
        rows.append(_imagenet(f"resnet{depth}", HE_2015, "ImageNet v1.5", depth))
    rows.append(_imagenet("resnet50_gn", WU_2018, "ImageNet v1.5", 50, norm="group"))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnet{depth}_v1", HE_2015, "ImageNet v1", depth, **KERAS_V1))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnetv2_{depth}", HE_2016, "ImageNet v2", depth, **KERAS_V2))
    for depth in (18, 34):
        rows.append(_imagenet(f"resnetv2_{depth}", HE_2016, "ImageNet v2", depth, **{**TIMM_V2, **BASIC}))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnetv2_{depth}_timm", HE_2016, "ImageNet v2", depth, **TIMM_V2))
    for depth in (18, 34):
        rows.append(_imagenet(f"resnetv2_{depth}d", WIGHTMAN_2019, "ImageNet v2", depth, **{**TIMM_V2_D, **BASIC}))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnetv2_{depth}d", WIGHTMAN_2019, "ImageNet v2", depth, **TIMM_V2_D))
    rows.append(_imagenet("resnetv2_50t", WIGHTMAN_2019, "ImageNet v2", 50, **{**TIMM_V2_D, "stem": "tiered"}))
    rows.append(_imagenet("resnetv2_50d_gn", WIGHTMAN_2019, "ImageNet v2", 50, norm="group", **TIMM_V2_D))
    for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)):
        row = _imagenet(f"resnetv2_{depth}x{factor}_bit", KOLESNIKOV_2020, "BiT", depth, **BIT)
        widths = tuple(factor * width for width in IMAGENET_WIDTHS)
        rows.append(row.replace(widths=widths, stem_width=64 * factor))

    for depth, groups, width in (50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 32, 16), (101, 32, 32), (101, 64, 4):
        name = f"resnext{depth}_{groups}x{width}d"
        rows.append(_imagenet(name, XIE_2017, "ResNeXt", depth, **_grouped(groups, width)))
    row = _cifar("resnext29_8x64d", XIE_2017, "ResNeXt", 3, 64, block="bottleneck", stem_width=64)
    rows.append(row.replace(cardinality=8, base_width=64))
    rows.append(_imagenet("resnext50d_32x4d", WIGHTMAN_2019, "ResNeXt", 50, **_grouped(32, 4), **D_TRICKS))

    for depth in (50, 101):
        rows.append(_imagenet(f"wide_resnet{depth}_2", WRN_2016, "Wide", depth, base_width=128))

    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnet{depth}c", HE_2019, "-C / -D", depth, **DEEP_STEM))
    for depth in (18, 26, 34, 50, 101, 152, 200):
        rows.append(_imagenet(f"resnet{depth}d", HE_2019, "-C / -D", depth, **D_TRICKS))
    for depth in (10, 14, 26, 50):
        rows.append(_imagenet(f"resnet{depth}t", WIGHTMAN_2019, "-S / -T", depth, **T_TRICKS))
    for depth in (50, 101, 152):
        rows.append(_imagenet(f"resnet{depth}s", HE_2019, "-S / -T", depth, **S_STEM))

    for depth in (18, 50):
        rows.append(_imagenet(f"resnetblur{depth}", ZHANG_2019, "anti-aliased", depth, **BLUR))
    for depth in (50, 101):
        rows.append(_imagenet(f"resnetblur{depth}d", ZHANG_2019, "anti-aliased", depth, **BLUR, **D_TRICKS))
    rows.append(_imagenet("resnetaa50", WIGHTMAN_2019, "anti-aliased", 50, **AVERAGE))
    for depth in (34, 50, 101):
        rows.append(_imagenet(f"resnetaa{depth}d", WIGHTMAN_2019, "anti-aliased", depth, **AVERAGE, **D_TRICKS))
    return rows


def _attention_rows() -> list[ResNetConfig]:
    """Squeeze-excitation and ECA, ResNet-RS."""
    rows = []
    se = {"attention": "se"}
    for depth in (18, 34, 50, 101, 152):
        rows.append(_imagenet(f"seresnet{depth}", HU_2018, "SE, ECA", depth, **se))
    for depth in (152, 200, 269):
        rows.append(_imagenet(f"seresnet{depth}d", WIGHTMAN_2019, "SE, ECA", depth, **se, **D_TRICKS))
    rows.append(_imagenet("seresnet50t", WIGHTMAN_2019, "SE, ECA", 50, **se, **T_TRICKS))
    rows.append(_imagenet("seresnetaa50d", WIGHTMAN_2019, "SE, ECA", 50, **se, **AVERAGE, **D_TRICKS))
    for depth, groups, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        name = f"seresnext{depth}_{groups}x{width}d"
        rows.append(_imagenet(name, HU_2018, "SE, ECA", depth, **se, **_grouped(groups, width)))
    for name, depth, width, tricks in (
        ("seresnext26d_32x4d", 26, 4, D_TRICKS),
        ("seresnext26t_32x4d", 26, 4, T_TRICKS),
        ("seresnext101d_32x8d", 101, 8, D_TRICKS),
        ("seresnextaa101d_32x8d", 101, 8, {**AVERAGE, **D_TRICKS}),
        ("seresnextaa201d_32x8d", 201, 8, {**AVERAGE, **D_TRICKS, **S_STEM}),
    ):
        rows.append(_imagenet(name, WIGHTMAN_2019, "SE, ECA", depth, **se, **_grouped(32, width), **tricks))
    senet = {**S_STEM, **_grouped(64, 4), "first_reduction": 2, "shortcut": "spatial_projection"}
    rows.append(_imagenet("senet154", HU_2018, "SE, ECA", 152, **se, **senet))

    eca = {"attention": "eca"}
    for name, depth, tricks in (
        ("ecaresnet26t", 26, T_TRICKS),
        ("ecaresnet50t", 50, T_TRICKS),
        ("ecaresnet50d", 50, D_TRICKS),
        ("ecaresnet101d", 101, D_TRICKS),
        ("ecaresnet200d", 200, D_TRICKS),
        ("ecaresnet269d", 269, D_TRICKS),
        ("ecaresnetlight", 50, {"depths": (1, 1, 11, 3), "shortcut": "average_pool_projection"}),
        ("ecaresnext26t_32x4d", 26, {**T_TRICKS, **_grouped(32, 4)}),
        ("ecaresnext50t_32x4d", 50, {**T_TRICKS, **_grouped(32, 4)}),
    ):
        rows.append(_imagenet(name, WANG_2020, "SE, ECA", depth, **eca, **tricks))

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
    return rows


def _spatial_rows() -> list[ResNetConfig]:
    """Something else than a convolution at the place of the spatial one. Input sizes are their publishers'."""
    rows = []
    for name, depth, size, fields in (
        ("resnest14d", 14, 224, {}),
        ("resnest26d", 26, 224, {}),
        ("resnest50d", 50, 224, {}),
        ("resnest101e", 101, 256, {"stem_width": 128}),
        ("resnest200e", 200, 320, {"stem_width": 128}),
        ("resnest269e", 269, 416, {"stem_width": 128}),
        ("resnest50d_4s2x40d", 50, 224, {"splits": 4, **_grouped(2, 40), "downsampling": "average_3x3_first"}),
        ("resnest50d_1s4x24d", 50, 224, {"splits": 1, **_grouped(4, 24), "downsampling": "average_3x3_first"}),
    ):
        row = _imagenet(name, ZHANG_2020, "ResNeSt", depth, **{**RESNEST, **fields})
        rows.append(row.replace(input_shape=(size, size, 3)))

    halves = {"spatial": "selective_kernel", "splits": 2}
    for depth in (18, 34):
        fields = {**halves, "se_ratio": 1 / 8, "se_floor": 16}
        rows.append(_imagenet(f"skresnet{depth}", LI_2019, "SK", depth, **fields))
    rows.append(_imagenet("skresnet50", LI_2019, "SK", 50, **halves))
    rows.append(_imagenet("skresnet50d", LI_2019, "SK", 50, **halves, **D_TRICKS))
    fields = {"spatial": "selective_kernel", "se_floor": 32, **_grouped(32, 4)}
    rows.append(_imagenet("skresnext50_32x4d", LI_2019, "SK", 50, **fields))

    for name, depth, width, scales, others in (
        ("res2net50_26w_4s", 50, 26, 4, {}),
        ("res2net50_26w_6s", 50, 26, 6, {}),
        ("res2net50_26w_8s", 50, 26, 8, {}),
        ("res2net50_48w_2s", 50, 48, 2, {}),
        ("res2net50_14w_8s", 50, 14, 8, {}),
        ("res2net101_26w_4s", 101, 26, 4, {}),
        ("res2net50d", 50, 26, 4, D_TRICKS),
        ("res2net101d", 101, 26, 4, D_TRICKS),
        ("res2next50", 50, 4, 4, {"cardinality": 8}),
    ):
        fields = {"spatial": "multi_scale", "splits": scales, "base_width": width, **others}
        rows.append(_imagenet(name, GAO_2019, "Res2Net", depth, **fields))
    return rows


def _other_rows() -> list[ResNetConfig]:
    return [
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
        ),
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
        ),
    ]


REGISTRY: dict[str, ResNetConfig] = {
    row.name: row for row in (*_cifar_rows(), *_plain_rows(), *_attention_rows(), *_spatial_rows(), *_other_rows())
}


def get_config(name: str | os.PathLike[str]) -> ResNetConfig:
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
        return REGISTRY[os.fspath(name)]
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
