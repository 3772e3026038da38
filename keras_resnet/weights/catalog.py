"""Published weights: where they lie, how to know them again, what images they expect and how good they are.

Tables, and functions that look things up in them; nothing here downloads or imports Keras. A tag is spelled
`publisher:NAME`, for example "torchvision:IMAGENET1K_V2".

Sources of the facts:
    torchvision 0.28.0, `torchvision.models.resnet`: addresses, preprocessing, accuracy. The eight hexadecimal digits in
        a file's name are the beginning of its SHA-256.
    timm 1.0.31, `default_cfgs` of `timm.models.resnet` and `timm.models.resnetv2`: addresses, preprocessing, licences;
        file names carry the SHA-256 as torchvision's do, the five files from its model hub do not. Accuracy: the
        project's results/results-imagenet.csv of August 2026, measured with the preprocessing given here.
    keras.applications of Keras 3.15.1, `keras.src.applications.resnet`: addresses and MD5. Accuracy: the table at
        keras.io/api/applications. That source leaves the resizing of larger images open; here it is the usual one,
        shorter side to 256 and the centre 224.
    github.com/akamaster/pytorch_resnet_cifar10: addresses and test error on CIFAR-10 in its README (accuracy here is
        100 % minus that). The digits in the names of 20, 32, 44 and 56 were compared with the files.
"""

import re
from dataclasses import dataclass
from typing import Any

from keras_resnet.errors import UserError, unknown_name

RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/"
RELEASES_OLD = "https://github.com/rwightman/pytorch-image-models/releases/download/"
GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/"
TORCHVISION = "https://download.pytorch.org/models/"
FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/"
HUB = "https://huggingface.co/timm/"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"

APACHE, BSD, CC_BY_NC = "Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0"

# (mean, standard deviation, colour order) for pixels scaled to 0..1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb")
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "rgb")
# Caffe's: blue first, the mean of ImageNet taken off pixels 0..255, no scaling.
CAFFE = ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255), "bgr")

CIFAR10_LABELS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class PublishedWeights:
    """One file of published weights.

    Attributes:
        model: Registry name of the network it fits.
        tag: "publisher:NAME".
        url: Where the publisher keeps it.
        digest: "sha256:…" or "md5:…" as the publisher gives it, whole or its beginning; "" where none is given.
        licence: SPDX name.
        size: Side of the square network input in pixels.
        crop_fraction: Size over the shorter side of the resized image.
        interpolation: How images are resized.
        normalization: (mean, standard deviation, colour order).
        top1: Published top-1 accuracy in %, on ImageNet's validation or CIFAR-10's test images; None where none is.
        top5: Published top-5 accuracy in %; None where none is.
        accuracy_source: Where that accuracy is published.
        labels: Class names, where the publisher's order is known here.
    """

    model: str
    tag: str
    url: str
    digest: str
    licence: str
    size: int
    crop_fraction: float
    interpolation: str
    normalization: tuple[tuple[float, ...], tuple[float, ...], str]
    top1: float | None
    top5: float | None
    accuracy_source: str
    labels: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """The name of the file in the cache."""
        name = self.url.rsplit("/", 1)[1]
        # Every file of the model hub has the same name.
        return name if name != "model.safetensors" else f"{self.url.split('/')[-4]}.safetensors"

    def preprocessing(self, height: int, width: int, channels: int) -> dict[str, Any]:
        """What images for these weights go through, as arguments of `data.preprocessing.Preprocessing`.

        Args:
            height: Height of the network's input, which may differ from the publisher's.
            width: Its width.
            channels: 3; or 1, when the first kernel was folded to grey.
        """
        mean, std, color_order = self.normalization
        if channels == 1:
            mean, std, color_order = (sum(mean) / len(mean),), (sum(std) / len(std),), "rgb"
        return {
            "height": height,
            "width": width,
            "channels": channels,
            "mean": mean,
            "std": std,
            "color_order": color_order,
            "interpolation": self.interpolation,
            "resize": "crop",
            "crop_fraction": self.crop_fraction,
            "labels": self.labels,
        }


# model, name, file, shorter side after resizing (the crop is 224), top-1, top-5
TORCHVISION_TABLE = (
    ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 256, 69.758, 89.078),
    ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 256, 73.314, 91.42),
    ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 256, 76.13, 92.862),
    ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 232, 80.858, 95.434),
    ("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 256, 77.374, 93.546),
    ("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 232, 81.886, 95.78),
    ("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 256, 78.312, 94.046),
    ("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 232, 82.284, 96.002),
    ("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", 256, 77.618, 93.698),
    ("resnext50_32x4d", "IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth", 232, 81.198, 95.34),
    ("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", 256, 79.312, 94.526),
    ("resnext101_32x8d", "IMAGENET1K_V2", "resnext101_32x8d-110c445d.pth", 232, 82.834, 96.228),
    ("resnext101_64x4d", "IMAGENET1K_V1", "resnext101_64x4d-173b62eb.pth", 232, 83.246, 96.454),
    ("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth", 256, 78.468, 94.086),
    ("wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth", 232, 81.602, 95.758),
    ("wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth", 256, 78.848, 94.284),
    ("wide_resnet101_2", "IMAGENET1K_V2", "wide_resnet101_2-d733dc28.pth", 232, 82.51, 96.02),
)

# model, file, MD5, top-1, top-5
KERAS_TABLE = (
    ("resnet50_v1", "resnet50", "2cb95161c43110f7111970584f804107", 74.9, 92.1),
    ("resnet101_v1", "resnet101", "f1aeb4b969a6efcfb50fad2f0c20cfc5", 76.4, 92.8),
    ("resnet152_v1", "resnet152", "100835be76be38e30d865e96f2aaae62", 76.6, 93.1),
    ("resnetv2_50", "resnet50v2", "3ef43a0b657b3be2300d5770ece849e0", 76.0, 93.0),
    ("resnetv2_101", "resnet101v2", "6343647c601c52e1368623803854d971", 77.2, 93.8),
    ("resnetv2_152", "resnet152v2", "a49b44d1979771252814e80f8ec446f9", 78.0, 94.2),
)

# model, file, top-1
AKAMASTER_TABLE = (
    ("resnet20", "resnet20-12fca82f.th", 91.73),
    ("resnet32", "resnet32-d509ac18.th", 92.63),
    ("resnet44", "resnet44-014dd654.th", 93.10),
    ("resnet56", "resnet56-4bfd9763.th", 93.39),
    ("resnet110", "resnet110-1d1ed7c2.th", 93.68),
    ("resnet1202", "resnet1202-f3b1deed.th", None),
)

# model, name, base address, file, size, crop fraction, interpolation, normalisation, licence, top-1, top-5
TIMM_TABLE = (
    ("resnet18", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnet18_a1_0-d63eafa0.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 71.504, 90.086),
    ("resnet18", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet18_a2_0-b61bd467.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 70.634, 89.486),
    ("resnet18", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet18_a3_0-40c531c8.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 65.67, 86.268),
    ("resnet18", "tv_in1k", TORCHVISION, "resnet18-f37072fd.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 69.752, 89.082),
    ("resnet18", "fb_ssl_yfcc100m_ft_in1k", FACEBOOK, "semi_supervised_resnet18-d92f0530.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 72.636, 91.416),
    ("resnet18", "fb_swsl_ig1b_ft_in1k", FACEBOOK, "semi_weakly_supervised_resnet18-118f1556.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 73.286, 91.754),
    ("resnet18", "gluon_in1k", GLUON, "v0.1/gluon_resnet18_v1b-0757602b.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 70.844, 89.75),
    ("resnet34", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnet34_a1_0-46f8f793.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 76.42, 92.896),
    ("resnet34", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet34_a2_0-82d47d71.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 75.52, 92.454),
    ("resnet34", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet34_a3_0-a20cabb6.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 70.58, 89.54),
    ("resnet34", "bt_in1k", RELEASES_OLD, "v0.1-weights/resnet34-43635321.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 75.176, 92.166),
    ("resnet34", "ra4_e3600_r224_in1k", HUB, "resnet34.ra4_e3600_r224_in1k/resolve/main/model.safetensors",
     224, 0.9, "bicubic", HALF, APACHE, 77.492, 93.498),
    ("resnet34", "tv_in1k", TORCHVISION, "resnet34-b627a593.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 73.298, 91.422),
    ("resnet34", "gluon_in1k", GLUON, "v0.1/gluon_resnet34_v1b-c6d82d59.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 74.574, 91.988),
    ("resnet50", "a1_in1k", RELEASES_OLD, "v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.382, 94.598),
    ("resnet50", "a1h_in1k", RELEASES, "v0.1-rsb-weights/resnet50_a1h2_176-001a1197.pth",
     176, 0.9, "bicubic", IMAGENET, APACHE, 79.264, 94.498),
    ("resnet50", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet50_a2_0-a2746f79.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.828, 94.56),
    ("resnet50", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet50_a3_0-59cae1ef.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 75.994, 92.494),
    ("resnet50", "b1k_in1k", RELEASES, "v0.1-rsb-weights/resnet50_b1k-532a802a.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.564, 94.622),
    ("resnet50", "b2k_in1k", RELEASES, "v0.1-rsb-weights/resnet50_b2k-1ba180c1.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.388, 94.58),
    ("resnet50", "c1_in1k", RELEASES, "v0.1-rsb-weights/resnet50_c1-5ba5e060.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.766, 94.954),
    ("resnet50", "c2_in1k", RELEASES, "v0.1-rsb-weights/resnet50_c2-d01e05b2.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.868, 94.862),
    ("resnet50", "d_in1k", RELEASES, "v0.1-rsb-weights/resnet50_d-f39db8af.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 79.904, 94.666),
    ("resnet50", "ram_in1k", RELEASES, "v0.1-weights/resnet50_ram-a26f946b.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.034, 94.386),
    ("resnet50", "am_in1k", RELEASES, "v0.1-weights/resnet50_am-6c502b37.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.004, 94.392),
    ("resnet50", "ra_in1k", RELEASES, "v0.1-weights/resnet50_ra-85ebb6e5.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 78.82, 94.314),
    ("resnet50", "bt_in1k", RELEASES, "v0.1-weights/rw_resnet50-86acaeed.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 78.444, 94.274),
    ("resnet50", "tv_in1k", TORCHVISION, "resnet50-0676ba61.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 76.156, 92.866),
    ("resnet50", "tv2_in1k", TORCHVISION, "resnet50-11ad3fa6.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 79.434, 94.64),
    ("resnet50", "fb_ssl_yfcc100m_ft_in1k", FACEBOOK, "semi_supervised_resnet50-08389792.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 79.252, 94.826),
    ("resnet50", "fb_swsl_ig1b_ft_in1k", FACEBOOK, "semi_weakly_supervised_resnet50-16a12f1b.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 81.146, 95.98),
    ("resnet50", "gluon_in1k", GLUON, "v0.1/gluon_resnet50_v1b-0ebe02e2.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 77.58, 93.704),
    ("resnet101", "a1h_in1k", RELEASES_OLD, "v0.1-rsb-weights/resnet101_a1h-36d3f2aa.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.95, 95.76),
    ("resnet101", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnet101_a1_0-cdcb52a9.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.494, 95.164),
    ("resnet101", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet101_a2_0-6edb36c7.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.344, 95.198),
    ("resnet101", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet101_a3_0-1db14157.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 77.928, 93.686),
    ("resnet101", "tv_in1k", TORCHVISION, "resnet101-63fe2227.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 77.404, 93.552),
    ("resnet101", "tv2_in1k", TORCHVISION, "resnet101-cd907fc2.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 79.908, 94.606),
    ("resnet101", "gluon_in1k", GLUON, "v0.1/gluon_resnet101_v1b-3b017079.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.306, 94.538),
    ("resnet152", "a1h_in1k", RELEASES_OLD, "v0.1-rsb-weights/resnet152_a1h-dc400468.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 82.818, 96.124),
    ("resnet152", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnet152_a1_0-2eee8a7a.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.998, 95.294),
    ("resnet152", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet152_a2_0-b4c6978f.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.764, 95.27),
    ("resnet152", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet152_a3_0-134d4688.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 78.896, 94.14),
    ("resnet152", "tv_in1k", TORCHVISION, "resnet152-394f9c45.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 78.33, 94.046),
    ("resnet152", "tv2_in1k", TORCHVISION, "resnet152-f82ba261.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 80.222, 94.65),
    ("resnet152", "gluon_in1k", GLUON, "v0.1/gluon_resnet152_v1b-c1edb0dd.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.712, 94.72),
    ("resnetv2_50_timm", "a1h_in1k", HUB, "resnetv2_50.a1h_in1k/resolve/main/model.safetensors",
     224, 0.95, "bicubic", HALF, APACHE, 80.41, 95.082),
    ("resnetv2_101_timm", "a1h_in1k", HUB, "resnetv2_101.a1h_in1k/resolve/main/model.safetensors",
     224, 0.95, "bicubic", HALF, APACHE, 82.042, 95.866),
    ("resnext50_32x4d", "a1h_in1k", RELEASES_OLD, "v0.1-rsb-weights/resnext50_32x4d_a1h-0146ab0a.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 81.14, 95.32),
    ("resnext50_32x4d", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnext50_32x4d_a1_0-b5a91a1d.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.526, 94.458),
    ("resnext50_32x4d", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnext50_32x4d_a2_0-efc76add.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.444, 94.63),
    ("resnext50_32x4d", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnext50_32x4d_a3_0-3e450271.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 77.732, 93.314),
    ("resnext50_32x4d", "ra_in1k", RELEASES, "v0.1-weights/resnext50_32x4d_ra-d733960d.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.8, 94.608),
    ("resnext50_32x4d", "tv_in1k", TORCHVISION, "resnext50_32x4d-7cdf4587.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 77.632, 93.674),
    ("resnext50_32x4d", "tv2_in1k", TORCHVISION, "resnext50_32x4d-1a0047aa.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 79.384, 94.302),
    ("resnext50_32x4d", "fb_ssl_yfcc100m_ft_in1k", FACEBOOK, "semi_supervised_resnext50_32x4-ddb3e555.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 80.316, 95.386),
    ("resnext50_32x4d", "fb_swsl_ig1b_ft_in1k", FACEBOOK, "semi_weakly_supervised_resnext50_32x4-72679e44.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 82.162, 96.224),
    ("resnext50_32x4d", "gluon_in1k", GLUON, "v0.1/gluon_resnext50_32x4d-e6a097c1.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.354, 94.424),
    ("resnext101_32x8d", "tv_in1k", TORCHVISION, "resnext101_32x8d-8ba56ff5.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 79.308, 94.53),
    ("resnext101_32x8d", "tv2_in1k", TORCHVISION, "resnext101_32x8d-110c445d.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 81.99, 95.716),
    ("resnext101_32x8d", "fb_wsl_ig1b_ft_in1k", TORCHVISION, "ig_resnext101_32x8-c38310e5.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 82.72, 96.624),
    ("resnext101_32x8d", "fb_ssl_yfcc100m_ft_in1k", FACEBOOK, "semi_supervised_resnext101_32x8-2cfe2f8b.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 81.62, 96.036),
    ("resnext101_32x8d", "fb_swsl_ig1b_ft_in1k", FACEBOOK, "semi_weakly_supervised_resnext101_32x8-b4712904.pth",
     224, 0.875, "bilinear", IMAGENET, CC_BY_NC, 84.276, 97.188),
    ("resnext101_64x4d", "c1_in1k", RELEASES_OLD, "v0.1-tpu-weights/resnext101_64x4d_c-0d0e0cc0.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 82.446, 95.92),
    ("resnext101_64x4d", "tv_in1k", TORCHVISION, "resnext101_64x4d-173b62eb.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 82.978, 96.252),
    ("resnext101_64x4d", "gluon_in1k", GLUON, "v0.1/gluon_resnext101_64x4d-f9a8e184.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 80.64, 95.0),
    ("wide_resnet50_2", "racm_in1k", RELEASES_OLD, "v0.1-weights/wide_resnet50_racm-8234f177.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 81.466, 95.544),
    ("wide_resnet50_2", "tv_in1k", TORCHVISION, "wide_resnet50_2-95faca4d.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 78.486, 94.084),
    ("wide_resnet50_2", "tv2_in1k", TORCHVISION, "wide_resnet50_2-9ba9bcbe.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 80.442, 95.076),
    ("wide_resnet101_2", "tv_in1k", TORCHVISION, "wide_resnet101_2-32ee1156.pth",
     224, 0.875, "bilinear", IMAGENET, BSD, 78.862, 94.312),
    ("wide_resnet101_2", "tv2_in1k", TORCHVISION, "wide_resnet101_2-d733dc28.pth",
     176, 0.875, "bilinear", IMAGENET, BSD, 80.494, 94.978),
    ("resnet18d", "ra2_in1k", RELEASES_OLD, "v0.1-weights/resnet18d_ra2-48a79e06.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 72.296, 90.682),
    ("resnet18d", "ra4_e3600_r224_in1k", HUB, "resnet18d.ra4_e3600_r224_in1k/resolve/main/model.safetensors",
     224, 0.9, "bicubic", HALF, APACHE, 74.356, 91.826),
    ("resnet34d", "ra2_in1k", RELEASES_OLD, "v0.1-weights/resnet34d_ra2-f8dcfcaf.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 77.108, 93.372),
    ("resnet50c", "gluon_in1k", GLUON, "v0.1/gluon_resnet50_v1c-48092f55.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 78.016, 93.994),
    ("resnet50d", "ra2_in1k", RELEASES_OLD, "v0.1-weights/resnet50d_ra2-464e36ba.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 80.546, 95.16),
    ("resnet50d", "ra4_e3600_r224_in1k", HUB, "resnet50d.ra4_e3600_r224_in1k/resolve/main/model.safetensors",
     224, 0.95, "bicubic", HALF, APACHE, 80.956, 95.38),
    ("resnet50d", "a1_in1k", RELEASES, "v0.1-rsb-weights/resnet50d_a1_0-e20cff14.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.73, 94.678),
    ("resnet50d", "a2_in1k", RELEASES, "v0.1-rsb-weights/resnet50d_a2_0-a3adc64d.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.268, 94.642),
    ("resnet50d", "a3_in1k", RELEASES, "v0.1-rsb-weights/resnet50d_a3_0-403fdfad.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 77.222, 93.256),
    ("resnet50d", "gluon_in1k", GLUON, "v0.1/gluon_resnet50_v1d-818a1b1b.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.08, 94.458),
    ("resnet101d", "ra2_in1k", RELEASES_OLD, "v0.1-weights/resnet101d_ra2-2803ffab.pth",
     256, 0.95, "bicubic", IMAGENET, APACHE, 82.254, 96.07),
    ("resnet101d", "gluon_in1k", GLUON, "v0.1/gluon_resnet101_v1d-0f9c8644.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 80.466, 95.034),
    ("seresnet50", "a1_in1k", RELEASES, "v0.1-rsb-weights/seresnet50_a1_0-ffa00869.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.012, 94.704),
    ("seresnet50", "a2_in1k", RELEASES, "v0.1-rsb-weights/seresnet50_a2_0-850de0d9.pth",
     224, 0.95, "bicubic", IMAGENET, APACHE, 80.102, 94.72),
    ("seresnet50", "a3_in1k", RELEASES, "v0.1-rsb-weights/seresnet50_a3_0-317ecd56.pth",
     160, 0.95, "bicubic", IMAGENET, APACHE, 75.104, 92.096),
    ("seresnet50", "ra2_in1k", RELEASES_OLD, "v0.1-weights/seresnet50_ra_224-8efdb4bb.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 80.26, 95.068),
    ("seresnext50_32x4d", "racm_in1k", RELEASES_OLD, "v0.1-weights/seresnext50_32x4d_racm-a304a460.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 81.268, 95.624),
    ("seresnext50_32x4d", "gluon_in1k", GLUON, "v0.1/gluon_seresnext50_32x4d-90cf2d6e.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.916, 94.816),
    ("ecaresnet50d", "miil_in1k", RELEASES_OLD, "v0.1-tresnet/ecaresnet50d-93c81e3b.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 80.634, 95.31),
    ("resnetblur50", "bt_in1k", RELEASES_OLD, "v0.1-weights/resnetblur50-84f4748f.pth",
     224, 0.875, "bicubic", IMAGENET, APACHE, 79.306, 94.632),
    ("resnetrs50", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs50_ema-6b53758b.pth",
     160, 0.91, "bicubic", IMAGENET, APACHE, 77.858, 93.81),
    ("resnetrs101", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs101_i192_ema-1509bbf6.pth",
     192, 0.94, "bicubic", IMAGENET, APACHE, 80.706, 95.24),
    ("resnetrs152", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs152_i256_ema-a9aff7f9.pth",
     256, 1.0, "bicubic", IMAGENET, APACHE, 82.9, 96.29),
    ("resnetrs200", "tf_in1k", RELEASES_OLD, "v0.1-tpu-weights/resnetrs200_c-6b698b88.pth",
     256, 1.0, "bicubic", IMAGENET, APACHE, 83.884, 96.762),
    ("resnetrs270", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs270_ema-b40e674c.pth",
     256, 1.0, "bicubic", IMAGENET, APACHE, 83.596, 96.616),
    ("resnetrs350", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs350_i256_ema-5a1aa8f1.pth",
     288, 1.0, "bicubic", IMAGENET, APACHE, 84.304, 96.942),
    ("resnetrs420", "tf_in1k", RELEASES_OLD, "v0.1-rs-weights/resnetrs420_ema-972dee69.pth",
     320, 1.0, "bicubic", IMAGENET, APACHE, 84.24, 96.862),
)  # fmt: skip


def _digest_in(filename: str) -> str:
    match = re.search(r"-([0-9a-f]{8})\.(?:pth|th)$", filename)
    return f"sha256:{match.group(1)}" if match else ""


def _entries() -> list[PublishedWeights]:
    entries = []
    for model, name, file, side, top1, top5 in TORCHVISION_TABLE:
        origin = (f"torchvision:{name}", TORCHVISION + file, _digest_in(file), BSD)
        images = (224, 224 / side, "bilinear", IMAGENET)
        published = (top1, top5, "torchvision 0.28.0, torchvision.models.resnet")
        entries.append(PublishedWeights(model, *origin, *images, *published))
    for model, stem, md5, top1, top5 in KERAS_TABLE:
        url = f"{KERAS}{stem}_weights_tf_dim_ordering_tf_kernels.h5"
        origin = ("keras:imagenet", url, f"md5:{md5}", APACHE)
        images = (224, 0.875, "bilinear", HALF if stem.endswith("v2") else CAFFE)
        entries.append(PublishedWeights(model, *origin, *images, top1, top5, "keras.io/api/applications"))
    for model, file, top1 in AKAMASTER_TABLE:
        origin = ("akamaster:cifar10", AKAMASTER + file, _digest_in(file), "BSD-2-Clause")
        images = (32, 1.0, "bilinear", IMAGENET)
        published = (top1, None, "github.com/akamaster/pytorch_resnet_cifar10, README")
        entries.append(PublishedWeights(model, *origin, *images, *published, CIFAR10_LABELS))
    for model, name, base, file, size, crop, interpolation, normalization, licence, top1, top5 in TIMM_TABLE:
        origin = (f"timm:{name}", base + file, _digest_in(file), licence)
        images = (size, crop, interpolation, normalization)
        published = (top1, top5, "pytorch-image-models, results/results-imagenet.csv")
        entries.append(PublishedWeights(model, *origin, *images, *published))
    return entries


CATALOG: tuple[PublishedWeights, ...] = tuple(_entries())


def list_weights(model: str | None = None) -> list[str]:
    """Lists the tags of published weights.

    Args:
        model: Registry name; None for the tags of all networks.

    Returns:
        The tags, in the catalogue's order, without repetitions.
    """
    return list(dict.fromkeys(entry.tag for entry in CATALOG if model in (None, entry.model)))


def find_weights(model: str, tag: str) -> PublishedWeights:
    """Looks published weights up.

    Args:
        model: Registry name.
        tag: A tag, or "imagenet" for the network's default on ImageNet: torchvision's newest where it has one, else
            timm's first, or keras.applications' for its own networks.

    Raises:
        UserError: If the network has no such weights; the message names those that it has.
    """
    entries = {entry.tag: entry for entry in CATALOG if entry.model == model}
    if tag in entries:
        return entries[tag]
    on_imagenet = [entry for entry in entries.values() if not entry.tag.startswith("akamaster:")]
    if tag == "imagenet" and on_imagenet:
        newest = [entry for entry in on_imagenet if entry.tag.startswith("torchvision:")]
        return newest[-1] if newest else on_imagenet[0]
    if not entries:
        raise UserError(f"There are no published weights for {model!r} in the catalogue, got {tag!r}.")
    raise unknown_name(f"weights for {model!r}", tag, entries)


def find_by_filename(filename: str) -> PublishedWeights | None:
    """Recognises a published file by its name; None where the name is no publisher's."""
    for entry in CATALOG:
        if entry.filename == filename:
            return entry
    return None
