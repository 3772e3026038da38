"""Recipes by name: the settings of a publication, and what it reports for them. Plain data; imports no TensorFlow.

A setting that is not named here has `Recipe`'s default. Data set and sizes belong to whoever trains; `model` is the
network that the published result is of. `differences` says where a recipe is not the publication's, and how.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_resnet.errors import unknown_name
from keras_resnet.training.recipe_files import load_settings


@dataclass(frozen=True)
class NamedRecipe:
    """One row of the table.

    Attributes:
        settings: Setting → value, as `Recipe` takes them.
        source: The publication and the place in it; "" for the project's own.
        result: What it reports; "" where it reports nothing of the kind.
        differences: Where this is not the publication's, or what the project's own is for.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    result: str = ""
    differences: str = ""


_CIFAR = {
    "batch_size": 128,
    "learning_rate": 0.1,
    "schedule": "step",
    "weight_decay": 1e-4,
    "decay_form": "l2",
    "augmentation": "crop_flip",
}
_IMAGENET = {
    "image_size": 224,
    "resize": "crop",
    "crop_fraction": 0.875,
    "augmentation": "inception_crop_flip",
    "batch_size": 256,
    "learning_rate": 0.1,
    "warmup_epochs": 5.0,
    "weight_decay": 1e-4,
    "decay_form": "l2",
    "last_gamma": "zeros",
}
_STRIKES_BACK = {
    **_IMAGENET,
    "model": "resnet50",
    "batch_size": 2048,
    "optimizer": "lamb",
    "schedule": "cosine",
    "loss": "bce",
    "target_threshold": 0.2,
    "crop_fraction": 0.95,
    "decay_form": "decoupled",
}
_STRIKES_BACK_DIFFERENCES = "mixed targets above 0.2 count as 1; half-precision and its batches are left to --precision"
DEFAULT_RECIPE = "quick"
RECIPES: dict[str, NamedRecipe] = {
    DEFAULT_RECIPE: NamedRecipe(differences="the defaults of train.py"),
    "he2015": NamedRecipe(
        {**_CIFAR, "model": "resnet20", "epochs": 182, "warmup_epochs": 0.0, "momentum_form": "classical"},
        "He et al. 2015, arXiv:1512.03385, section 4.2 (CIFAR-10)",
        "91.25 % test accuracy (ResNet-32 92.49, ResNet-44 92.83, ResNet-56 93.03)",
        "182 epochs are the 64,000 steps of 45,000 training images; ResNet-110 needs warmup_epochs 1",
    ),
    "fast_cifar": NamedRecipe(
        {
            **_CIFAR,
            "model": "resnet20",
            "learning_rate": 0.2,
            "epochs": 20,
            "schedule": "cosine",
            "warmup_epochs": 2.0,
            "weight_decay": 5e-4,
            "ema_decay": 0.99,
            "precision": "auto",
        },
        differences="for a good ResNet-20 in about 15 minutes on two cores: 20 epochs of CIFAR-10 in bfloat16, about "
        "11 in float32. Usual settings of short trainings; the rate (of 0.1, 0.2 and 0.4) and label smoothing (of 0 "
        "and 0.1) were chosen by six epochs of 15,000 training images, 2,500 others held out; no publication stands "
        "behind it",
    ),
    "he2016": NamedRecipe(
        {**_CIFAR, "model": "resnetv2_164", "epochs": 182, "warmup_epochs": 1.0, "momentum_form": "classical"},
        "He et al. 2016, arXiv:1603.05027, section 5 (CIFAR-10)",
        "94.54 % test accuracy (ResNet-1001 95.08)",
        "the rate rises from 0 over one epoch; the publication's is 0.01 for 400 steps",
    ),
    "wrn": NamedRecipe(
        {
            **_CIFAR,
            "model": "wrn_28_10",
            "epochs": 200,
            "warmup_epochs": 0.0,
            "milestones": "0.3,0.6,0.8",
            "decay_factor": 0.2,
            "weight_decay": 5e-4,
        },
        "Zagoruyko & Komodakis 2016, arXiv:1605.07146, section 3 (CIFAR-10)",
        "96.00 % test accuracy (96.11 with dropout 0.3 inside the blocks)",
    ),
    "imagenet_90": NamedRecipe(
        {
            **_IMAGENET,
            "model": "resnet50",
            "epochs": 90,
            "schedule": "step",
            "milestones": "0.33333,0.66667,0.88889",
            "augmentation": "inception_crop_flip:antialias=0",
        },
        "Goyal et al. 2017, arXiv:1706.02677, section 5.1 (ImageNet)",
        "76.40 % validation accuracy, centre crop of 224",
        "for another batch size multiply learning_rate by batch_size / 256; crops are resized without smoothing, as "
        "in TensorFlow's Model Garden for this recipe, which reads images one and a half times as fast",
    ),
    "bag_of_tricks": NamedRecipe(
        {
            **_IMAGENET,
            "model": "resnet50d",
            "epochs": 200,
            "batch_size": 1024,
            "learning_rate": 0.4,
            "schedule": "cosine",
            "label_smoothing": 0.1,
            "augmentation": "inception_crop_flip,color_jitter:0.4:0.4:0.4,pca_noise:0.1,mixup:0.2",
        },
        "He et al. 2019, arXiv:1812.01187, section 5, Table 6 (ImageNet)",
        "79.15 % validation accuracy, without distillation",
        "colour jitter without hue",
    ),
    "torchvision_v2": NamedRecipe(
        {
            **_IMAGENET,
            "model": "resnet50",
            "epochs": 600,
            "batch_size": 1024,
            "learning_rate": 0.5,
            "schedule": "cosine",
            "momentum_form": "classical",
            "weight_decay": 2e-5,
            "label_smoothing": 0.1,
            "train_image_size": 176,
            "crop_fraction": 0.9655,
            "augmentation": "inception_crop_flip,trivialaugment,mixup_cutmix:0.2:1.0,erase:0.1",
            "repeats": 4,
            "ema_decay": 0.999966,
            "last_gamma": "ones",
        },
        "torchvision's references, IMAGENET1K_V2 of resnet50 (ImageNet)",
        "80.86 % validation accuracy",
        "weights are averaged after every update, by the decay that theirs of 0.99998 every 32 steps amounts to; "
        "erasing follows mixing",
    ),
    "strikes_back_a1": NamedRecipe(
        {
            **_STRIKES_BACK,
            "epochs": 600,
            "learning_rate": 5e-3,
            "weight_decay": 0.01,
            "label_smoothing": 0.1,
            "stochastic_depth_rate": 0.05,
            "repeats": 3,
            "augmentation": "inception_crop_flip,randaugment_increasing:2:7:0.5,mixup_cutmix:0.2:1.0",
        },
        "Wightman et al. 2021, arXiv:2110.00476, Table 2, A1 (ImageNet)",
        "80.4 % validation accuracy",
        _STRIKES_BACK_DIFFERENCES,
    ),
    "strikes_back_a2": NamedRecipe(
        {
            **_STRIKES_BACK,
            "epochs": 300,
            "learning_rate": 5e-3,
            "weight_decay": 0.02,
            "stochastic_depth_rate": 0.05,
            "repeats": 3,
            "augmentation": "inception_crop_flip,randaugment_increasing:2:7:0.5,mixup_cutmix:0.1:1.0",
        },
        "Wightman et al. 2021, arXiv:2110.00476, Table 2, A2 (ImageNet)",
        "79.8 % validation accuracy",
        _STRIKES_BACK_DIFFERENCES,
    ),
    "strikes_back_a3": NamedRecipe(
        {
            **_STRIKES_BACK,
            "epochs": 100,
            "learning_rate": 8e-3,
            "weight_decay": 0.02,
            "train_image_size": 160,
            "augmentation": "inception_crop_flip,randaugment_increasing:2:6:0.5,mixup_cutmix:0.1:1.0",
        },
        "Wightman et al. 2021, arXiv:2110.00476, Table 2, A3 (ImageNet)",
        "78.1 % validation accuracy",
        _STRIKES_BACK_DIFFERENCES,
    ),
    "resnet_rs": NamedRecipe(
        {
            **_IMAGENET,
            "model": "resnetrs50",
            "image_size": 160,
            "epochs": 350,
            "batch_size": 4096,
            "learning_rate": 1.6,
            "schedule": "cosine",
            "momentum_form": "classical",
            "weight_decay": 4e-5,
            "label_smoothing": 0.1,
            "drop_rate": 0.25,
            "ema_decay": 0.9999,
            "augmentation": "inception_crop_flip,randaugment:2:30",
        },
        "Bello et al. 2021, arXiv:2103.07579, Table 11, ResNet-RS-50 at 160 (ImageNet)",
        "78.8 % validation accuracy",
        "RandAugment's highest magnitude of 31, which is the publication's 10 of 10, by torchvision's operations",
    ),
    "finetune": NamedRecipe(
        {
            "model": "resnet50",
            "epochs": 20,
            "head_epochs": 2,
            "layer_decay": 0.8,
            "learning_rate": 0.02,
            "warmup_epochs": 0.0,
            "weight_decay": 1e-4,
        },
        differences="for a network with weights, which --weights names: two epochs of the head alone, then every block "
        "at 0.8 of the rate of the one above it",
    ),
}


def get_named_recipe(name: str) -> NamedRecipe:
    """Looks a recipe up by name; UserError with the closest names where there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]


def recipe_settings(recipe: str) -> dict[str, Any]:
    """Returns the settings of a recipe by its name, or of a recipe file or a run's recipe.json.

    Raises:
        UserError: There is no such recipe or file, or the file is damaged.
    """
    is_file = Path(recipe).suffix or Path(recipe).is_file()
    return dict(load_settings(recipe) if is_file else get_named_recipe(recipe).settings)
