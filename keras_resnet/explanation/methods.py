"""One table of methods, and `explain`: heat maps of any method, layer and target, smoothed and combined as asked for.

References to the papers stand beside each method. Test-time smoothing: Gildenblat and contributors 2021,
pytorch-grad-cam ("aug smooth"). Combining layers: Jiang et al. 2021, "LayerCAM", section III.
"""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_resnet.backends import JAX, as_array, backend, require_tensorflow
from keras_resnet.choices import COMBINATIONS, SMOOTHINGS
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError, unknown_name
from keras_resnet.explanation.classifier import FEATURES, Classifier, prepare, resolve_targets
from keras_resnet.explanation.inputs import network_inputs, place_maps
from keras_resnet.explanation.maps import RawMaps, finish_maps, is_constant

SCALES = (1.0, 0.9, 1.1)


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: As people call it.
        code: The implementation, "module:function" of this package.
        source: "ours", "tf-keras-vis" (which needs Keras on TensorFlow) or "baseline".
        on_layer: Whether the map is drawn on a layer (the others draw on the image itself).
    """

    title: str
    code: str
    source: str
    on_layer: bool = True

    @property
    def compute(self) -> Callable[..., RawMaps]:
        """The implementation."""
        return pkgutil.resolve_name(f"{__package__}.{self.code}")

    @property
    def is_usable(self) -> bool:
        """Whether it runs on the backend in use."""
        return self.source != "tf-keras-vis" or backend() != JAX


METHODS: dict[str, Method] = {
    "cam": Method("CAM", "gradient:cam", "ours"),
    "gradcam": Method("Grad-CAM", "gradient:gradcam", "ours"),
    "gradcam_closed_form": Method("Grad-CAM (closed form)", "gradient:gradcam_closed_form", "ours"),
    "gradcam_gradient": Method("Grad-CAM (gradients)", "gradient:gradcam_gradient", "ours"),
    "gradcam_tf_keras_vis": Method("Grad-CAM (tf-keras-vis)", "keras_vis:gradcam", "tf-keras-vis"),
    "gradcam_plus_plus": Method("Grad-CAM++", "keras_vis:gradcam_plus_plus", "tf-keras-vis"),
    "layercam": Method("Layer-CAM", "keras_vis:layercam", "tf-keras-vis"),
    "hirescam": Method("HiRes-CAM", "gradient:hirescam", "ours"),
    "xgradcam": Method("XGrad-CAM", "gradient:xgradcam", "ours"),
    "eigencam": Method("Eigen-CAM", "gradient:eigencam", "ours"),
    "ablationcam": Method("Ablation-CAM", "perturbation:ablationcam", "ours"),
    "scorecam": Method("Score-CAM", "perturbation:scorecam", "ours"),
    "scorecam_tf_keras_vis": Method("Score-CAM (tf-keras-vis)", "keras_vis:scorecam", "tf-keras-vis"),
    "faster_scorecam": Method("Faster-Score-CAM", "keras_vis:faster_scorecam", "tf-keras-vis"),
    "saliency": Method("Saliency", "keras_vis:saliency", "tf-keras-vis", on_layer=False),
    "smoothgrad": Method("SmoothGrad", "keras_vis:smoothgrad", "tf-keras-vis", on_layer=False),
    "integrated_gradients": Method("Integrated gradients", "gradient:integrated_gradients", "ours", on_layer=False),
    "occlusion": Method("Occlusion", "perturbation:occlusion", "ours", on_layer=False),
    "gaussian": Method("Centred Gaussian", "baselines:gaussian", "baseline", on_layer=False),
    "random": Method("Random", "baselines:random", "baseline", on_layer=False),
}
BASELINES = tuple(name for name, method in METHODS.items() if method.source == "baseline")
# Each idea once: what `--method all` and the ranking draw.
DISTINCT = tuple(
    name
    for name, method in METHODS.items()
    if method.source != "baseline" and not name.endswith(("_tf_keras_vis", "_closed_form", "_gradient"))
)


def explain(
    model: keras.Model,
    images: Any,
    targets: Any = None,
    method: str = "gradcam",
    layer: str | Sequence[str] = FEATURES,
    *,
    preprocessing: Preprocessing | None = None,
    smooth: str = "none",
    combine: str = "mean",
    batch_size: int = 32,
    max_batch: int = 64,
    steps: int = 32,
    samples: int = 16,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Draws heat maps: where in each image the evidence for a class lies.

    Args:
        model: Any functional or Sequential classifier, inner models and mixed precision included. What can not be
            explained directly is rebuilt as a flat float32 graph once and kept with the model.
        images: [N, H, W, C]. Network inputs; or, with `preprocessing`, pixels 0..255 of any size.
        targets: None for the predicted class; a class number (or label, when the preprocessing has labels) for all
            images; or a sequence of those, one per image.
        method: A name of `METHODS`.
        layer: The layer, or several whose maps are combined. "features" is the last feature map. Methods that draw on
            the image itself take no notice of it.
        preprocessing: A `Preprocessing` that turns pixels into network inputs.
        smooth: Test-time smoothing: "none", "flips" (left-right) or "flips+scales" (each at 1, 0.9 and 1.1 times).
        combine: How the maps of several layers become one: "mean", "max" or "product".
        batch_size: Images at a time.
        max_batch: Changed images in one pass at most, for the methods that try many: the bound on memory.
        steps: Steps along the path of integrated gradients.
        samples: Noisy copies for SmoothGrad.
        seed: Number that noise depends on.
        progress: Told (done, all) as the work proceeds; "all" is that of the present batch.

    Returns:
        float32 [N, H, W], the maximum of each map 1. A map that is constant, or in which nothing speaks for the class,
        is 0 everywhere.

    Raises:
        UserError: An unknown name, a layer without height and width, a class out of range, a model without
            classification head, images that do not fit, or NaN in a map.

    Reference:
        See the modules `gradient`, `perturbation` and `keras_vis`.
    """
    row = get_method(method)
    for kind, name, valid in (("smoothing", smooth, SMOOTHINGS), ("combination", combine, COMBINATIONS)):
        if name not in valid:
            raise unknown_name(kind, name, valid)
    for name, value in (("batch_size", batch_size), ("max_batch", max_batch), ("steps", steps), ("samples", samples)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}.")
    classifier = prepare(model)
    names = [layer] if isinstance(layer, str) else list(layer)
    if not names:
        raise UserError("A heat map needs at least one layer, got none.")
    if row.on_layer or names != [FEATURES]:
        names = [classifier.layer_name(name) for name in names]
    inputs, size = network_inputs(model, images, preprocessing)
    labels = preprocessing.labels if preprocessing is not None else ()
    numbers = resolve_targets(targets, classifier.classes, len(inputs), labels)
    options = {
        "max_batch": max_batch, "steps": steps, "samples": samples, "seed": seed, "progress": progress
    }  # fmt: skip

    def draw(part: np.ndarray, part_targets: np.ndarray, name: str) -> np.ndarray:
        raw = row.compute(classifier, part, part_targets, layer=name, **options)
        return finish_maps(raw, *part.shape[1:3], what=row.title)

    maps = []
    for first in range(0, len(inputs), batch_size):
        part, part_targets = inputs[first : first + batch_size], numbers[first : first + batch_size]
        if smooth != "none":
            # The class of the image as it is, not of each changed copy.
            predicted = as_array(classifier.logits(part)).argmax(axis=-1).astype(np.int32)
            part_targets = np.where(part_targets < 0, predicted, part_targets)
        drawn = [
            _smoothed(lambda x, t, name=name: draw(x, t, name), part, part_targets, smooth)
            for name in (names if row.on_layer else names[:1])
        ]
        maps.append(_combined(drawn, combine))
    if not maps:
        return np.zeros((0, *size), np.float32)
    return place_maps(np.concatenate(maps), preprocessing, size)


def get_method(name: str) -> Method:
    """Looks a method up by name.

    Raises:
        UserError: There is no such method (the message names the closest ones), or it does not run on this backend.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    method = METHODS[name]
    if not method.is_usable:
        require_tensorflow(f"{method.title} is drawn by tf-keras-vis, which")
    return method


def maximize_activation(
    model: keras.Model,
    target: int | str,
    *,
    preprocessing: Preprocessing | None = None,
    steps: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Draws an image that excites a class: what the network takes to be typical of it (activation maximisation).

    Args:
        model: As for `explain`.
        target: A class number, or a label when the preprocessing has labels.
        preprocessing: What stands between pixels 0..255 and the network; without it the network is taken to accept
            pixels / 255.
        steps: Steps of gradient ascent.
        seed: Number that the start and the jitter depend on.
        progress: Told (done, all) after each step.

    Returns:
        uint8 [H, W, C], RGB for three channels.

    Raises:
        UserError: The class is unknown, the model cannot be used, or Keras does not run on TensorFlow.

    Reference:
        Simonyan et al. 2014, arXiv:1312.6034, section 2.
    """
    require_tensorflow("Activation maximisation is done by tf-keras-vis, which")
    from keras_resnet.explanation import keras_vis

    classifier = prepare(model)
    labels = preprocessing.labels if preprocessing is not None else ()
    number = int(resolve_targets([target], classifier.classes, 1, labels)[0])
    if number < 0:
        raise UserError("Activation maximisation needs a class to draw. Name one as target.")
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}.")
    shape = list(classifier.model.input_shape[1:])
    if preprocessing is not None:
        shape[:2] = preprocessing.height, preprocessing.width
    if None in shape:
        raise UserError(f"The network takes images of any size {tuple(shape)}: give a preprocessing that fixes one.")

    def build():
        mean = preprocessing.mean if preprocessing is not None else (0.0,) * shape[-1]
        std = preprocessing.std if preprocessing is not None else (1.0,) * shape[-1]
        pixels = keras.Input(shape, name="pixels")
        scaled = layers.Rescaling(
            [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)], name="pixels_to_inputs"
        )(pixels)
        # Logits alone may rise together for all classes; log probabilities alone are content with an image in which
        # nothing speaks for any class, where the head's bias favours this one.
        logits = classifier.model(scaled)
        return keras.Model(pixels, layers.Add()([logits, layers.Activation("log_softmax")(logits)]))

    key = preprocessing.fingerprint() if preprocessing is not None else None
    image = keras_vis.maximize_activation(
        classifier.cached(("pixels", key), build), number, steps=steps, seed=seed, progress=progress
    )
    if preprocessing is not None and preprocessing.color_order == "bgr":
        image = image[..., ::-1]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _smoothed(draw: Callable, images: np.ndarray, targets: np.ndarray, smooth: str) -> np.ndarray:
    """The mean over maps of changed images, each map laid back onto the image, scaled to 0..1 again."""
    if smooth == "none":
        return draw(images, targets)
    total = np.zeros(images.shape[:3], np.float32)
    seen = np.zeros(images.shape[:3], np.float32)
    for scale in SCALES if smooth == "flips+scales" else SCALES[:1]:
        for step in (1, -1):
            maps = draw(_zoomed(images[:, :, ::step], scale), targets)[..., None]
            # What a zoom pushed out of the picture is unknown there, not zero.
            total += _zoomed(maps, 1 / scale)[:, :, ::step, 0]
            seen += _zoomed(np.ones_like(maps), 1 / scale)[:, :, ::step, 0]
    mean = total / np.maximum(seen, 1e-6)
    top = mean.max(axis=(1, 2), keepdims=True)
    return np.divide(mean, top, out=np.zeros_like(mean), where=top > 0)


def _zoomed(images: np.ndarray, scale: float) -> np.ndarray:
    """Enlarges (scale > 1) or shrinks images about their centre, within their size; outside is zero."""
    if scale == 1:
        return np.ascontiguousarray(images)
    rows, columns = (_zoom_matrix(side, scale) for side in images.shape[1:3])
    return np.einsum("yh,nhwc,xw->nyxc", rows, images, columns, optimize=True)


def _zoom_matrix(side: int, scale: float) -> np.ndarray:
    """float32 [side, side]: what each place of a zoomed row is made of, linearly."""
    place = np.arange(side) / scale + (side - 1) * (0.5 - 0.5 / scale)
    inside = (place >= 0) & (place <= side - 1)
    parts = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(side)))
    return np.where(inside[:, None], parts, 0.0).astype(np.float32)


def _combined(maps: list[np.ndarray], combine: str) -> np.ndarray:
    if len(maps) == 1:
        return maps[0]
    stack = np.stack(maps)
    together = {"mean": stack.mean(axis=0), "max": stack.max(axis=0), "product": stack.prod(axis=0)}[combine]
    top = together.max(axis=(1, 2), keepdims=True)
    return np.divide(together, top, out=np.zeros_like(together), where=top > 0)


__all__ = [
    "BASELINES", "DISTINCT", "METHODS", "Classifier", "Method", "explain", "get_method",
    "is_constant", "maximize_activation",
]  # fmt: skip
