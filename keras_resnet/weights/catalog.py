"""Published weights: where they lie, how to know them again, what images they expect and how good they are.

Entries made of the tables in `published` and its siblings, and functions that look things up; nothing here downloads or
imports Keras. A tag is spelled `publisher:NAME`, for example "torchvision:IMAGENET1K_V2".
"""

import re
from dataclasses import dataclass
from typing import Any

from keras_resnet.errors import UserError, unknown_name
from keras_resnet.weights.published import (
    AKAMASTER,
    AKAMASTER_TABLE,
    APACHE,
    BSD,
    CAFFE,
    CIFAR10_LABELS,
    DATA_SETS,
    HALF,
    IMAGENET,
    KERAS,
    KERAS_TABLE,
    TIMM_CLASSES,
    TORCHVISION,
    TORCHVISION_TABLE,
)
from keras_resnet.weights.published_timm import TIMM_TABLE
from keras_resnet.weights.published_timm_variants import TIMM_VARIANTS_TABLE


@dataclass(frozen=True)
class PublishedWeights:
    """One file of published weights.

    Attributes:
        model: Registry name of the network it fits.
        tag: "publisher:NAME".
        url: Where the publisher keeps it.
        digest: "sha256:…" or "md5:…" as the publisher gives it, whole or its beginning; "" where none is given.
        licence: SPDX name; "unknown" where the publisher names none.
        size: Side of the square network input in pixels.
        crop_fraction: Size over the shorter side of the resized image.
        interpolation: How images are resized.
        normalization: (mean, standard deviation, colour order).
        top1: Published top-1 accuracy in %, on ImageNet-1k's validation or CIFAR-10's test images; None where none is.
        top5: Published top-5 accuracy in %; None where none is.
        accuracy_source: Where that accuracy is published.
        labels: Class names, where the publisher's order is known here.
        classes: How many the head has, a key of `DATA_SETS`.
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
    classes: int = 1000

    @property
    def data_set(self) -> str:
        """What the classes are those of."""
        return DATA_SETS[self.classes]

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


def _digest_in(filename: str) -> str:
    match = re.search(r"-([0-9a-f]{8})\.(?:pth|th)$", filename)
    return f"sha256:{match.group(1)}" if match else ""


def _entries() -> list[PublishedWeights]:
    entries = []
    # Size, crop fraction, interpolation and normalisation; top-1, top-5 and their source.
    images: tuple[Any, Any, Any, Any]
    published: tuple[float | None, float | None, str]
    timm: tuple[tuple[Any, ...], ...] = (*TIMM_TABLE, *TIMM_VARIANTS_TABLE)
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
    for model, file, accuracy in AKAMASTER_TABLE:
        origin = ("akamaster:cifar10", AKAMASTER + file, _digest_in(file), "BSD-2-Clause")
        images = (32, 1.0, "bilinear", IMAGENET)
        published = (accuracy, None, "github.com/akamaster/pytorch_resnet_cifar10, README")
        entries.append(PublishedWeights(model, *origin, *images, *published, CIFAR10_LABELS, len(CIFAR10_LABELS)))
    for model, name, base, file, size, crop, interpolation, normalization, licence, accuracy, accuracy5 in timm:
        images = (size, crop, interpolation, normalization)
        # The model hub has a folder for each, called as timm calls them.
        url = base + (file or f"{model.removesuffix('_timm')}.{name}/resolve/main/model.safetensors")
        origin = (f"timm:{name}", url, _digest_in(file), licence)
        published = (accuracy, accuracy5, "pytorch-image-models, results/results-imagenet.csv")
        classes = next((count for ending, count in TIMM_CLASSES.items() if name.endswith(ending)), 1000)
        entries.append(PublishedWeights(model, *origin, *images, *published, classes=classes))
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
    on_imagenet = [entry for entry in entries.values() if entry.classes == 1000]
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
