"""The tables of published weights, which `catalog` makes entries of: plain data. timm's are in `published_timm` and
`published_timm_variants`.

Sources of the facts:
    torchvision 0.28.0, `torchvision.models.resnet`: addresses, preprocessing, accuracy. The eight hexadecimal digits in
        a file's name are the beginning of its SHA-256.
    timm 1.0.31, `default_cfgs` of `timm.models.resnet`, `resnetv2`, `resnest`, `sknet` and `res2net`: addresses,
        preprocessing at the size of training, licences. File names carry the SHA-256 as torchvision's do. Rows without
        a file lie on its model hub alone, under an address that follows from their name and without a digest.
        Accuracy: the project's results/results-imagenet.csv of August 2026, measured with the preprocessing given
        here; it has none for heads of other classes than ImageNet-1k's. Left out: resnet50.bamboo, which has no head
        and no licence, and weights of networks that the model table does not have.
        `tests/weights/record_published.py` writes these rows.
    keras.applications of Keras 3.15.1, `keras.src.applications.resnet`: addresses and MD5. Accuracy: the table at
        keras.io/api/applications. That source leaves the resizing of larger images open; here it is the usual one,
        shorter side to 256 and the centre 224.
    github.com/akamaster/pytorch_resnet_cifar10: addresses and test error on CIFAR-10 in its README (accuracy here is
        100 % minus that). The digits in the names of 20, 32, 44 and 56 were compared with the files.
"""

RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/"
RELEASES_OLD = "https://github.com/rwightman/pytorch-image-models/releases/download/"
GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/"
TORCHVISION = "https://download.pytorch.org/models/"
FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/"
HUB = "https://huggingface.co/timm/"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
AKAMASTER = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"

APACHE, BSD, CC_BY_NC, UNKNOWN = "Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0", "unknown"

# Classes of a head → the data set that they are of.
DATA_SETS = {10: "CIFAR-10", 1000: "ImageNet-1k", 11_821: "ImageNet-12k", 21_843: "ImageNet-21k"}
# End of timm's name of weights → classes, where they are not ImageNet-1k's.
TIMM_CLASSES = {"_in12k": 11_821, "_in21k": 21_843}

# (mean, standard deviation, colour order) for pixels scaled to 0..1.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "rgb")
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "rgb")
# Caffe's: blue first, the mean of ImageNet taken off pixels 0..255, no scaling.
CAFFE = ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255), "bgr")

CIFAR10_LABELS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

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
