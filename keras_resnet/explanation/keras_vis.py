"""The methods of tf-keras-vis. No other file imports it.

It takes flat float32 functional models alone, which is what `Classifier` hands it. Its maps come at the layer's own
resolution: `maps.py` enlarges all methods' maps in the same way.

References:
    Kubota and contributors, tf-keras-vis 0.8.7.
    Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391.
    Chattopadhay et al. 2018, "Grad-CAM++", arXiv:1710.11063.
    Wang et al. 2020, "Score-CAM", arXiv:1910.01279.
    Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps", IEEE TIP.
    Simonyan et al. 2014, "Deep Inside Convolutional Networks", arXiv:1312.6034 (saliency, activation maximisation).
    Smilkov et al. 2017, "SmoothGrad", arXiv:1706.03825.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.backends import as_array
from keras_resnet.explanation.classifier import PREDICTED, Classifier
from keras_resnet.explanation.maps import RawMaps

# Weight of the mean difference of neighbouring pixels against the class' evidence.
TOTAL_VARIATION = 5e-4


def gradcam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Grad-CAM as tf-keras-vis computes it."""
    with _quiet():
        from tf_keras_vis.gradcam import Gradcam
    return _on_layer(classifier, Gradcam, images, targets, layer)


def gradcam_plus_plus(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Grad-CAM++: weights from second and third derivatives, for several instances of a class in one image."""
    with _quiet():
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    # It multiplies by the logit's exponential, which scales the whole map and overflows at logits of
    # about 88. Of the logit less its own value the exponential is 1 and the gradients are the same.
    return _on_layer(classifier, GradcamPlusPlus, images, targets, layer, score_of=lambda s: s - tf.stop_gradient(s))


def layercam(classifier: Classifier, images, targets, *, layer: str, **_) -> RawMaps:
    """Layer-CAM: activation times positive gradient at each place; good on shallow layers, too."""
    with _quiet():
        from tf_keras_vis.layercam import Layercam
    return _on_layer(classifier, Layercam, images, targets, layer)


def scorecam(classifier: Classifier, images, targets, *, layer: str, max_batch: int = 64, **_) -> RawMaps:
    """Score-CAM as tf-keras-vis computes it: all masked images of an image lie in memory together."""
    return _scorecam(classifier, images, targets, layer=layer, batch_size=max_batch, max_N=None)


def faster_scorecam(classifier: Classifier, images, targets, *, layer: str, max_batch: int = 64, **_) -> RawMaps:
    """Faster-Score-CAM: Score-CAM on the ten channels that vary most."""
    channels = classifier.model.get_layer(layer).output.shape[-1]
    return _scorecam(classifier, images, targets, layer=layer, batch_size=max_batch, max_N=min(10, channels))


def saliency(classifier: Classifier, images, targets, **_) -> RawMaps:
    """Vanilla saliency: the largest size of the gradient over a pixel's channels."""
    return _saliency(classifier, images, targets)


def smoothgrad(classifier: Classifier, images, targets, *, samples: int = 16, seed: int = 0, **_) -> RawMaps:
    """SmoothGrad: the mean of saliency maps under noise of a fifth of the image's range."""
    with _seeded(seed):
        return _saliency(classifier, images, targets, smooth_samples=samples, smooth_noise=0.2)


def maximize_activation(
    model: keras.Model,
    target: int,
    *,
    steps: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Draws an image that excites a class; see `methods.maximize_activation`.

    Args:
        model: A flat float32 model that takes pixels 0..255 and returns what is to grow for each class.
        target: Class number.
        steps: Steps of gradient ascent.
        seed: Number that the start and the jitter depend on.
        progress: Told (done, all) after each step.

    Returns:
        float32 [H, W, C], 0..255.
    """
    with _quiet():
        from tf_keras_vis.activation_maximization import ActivationMaximization
        from tf_keras_vis.activation_maximization.callbacks import Callback
        from tf_keras_vis.activation_maximization.input_modifiers import Jitter
        from tf_keras_vis.activation_maximization.regularizers import TotalVariation2D
        from tf_keras_vis.utils.scores import CategoricalScore

        class Report(Callback):
            def __call__(self, i, *_, **__):
                if progress:
                    progress(i + 1, steps)

        start = np.random.default_rng(seed).uniform(96, 160, (1, *model.input_shape[1:])).astype(np.float32)
        with _seeded(seed):
            # Its defaults are for VGG16: with other networks' small gradients the regularizers, and the epsilon of its
            # optimizer, leave nothing of the class. Adam's step has a size in pixels whatever the gradient's.
            images = ActivationMaximization(model, clone=False)(
                CategoricalScore([target]),
                seed_input=start,
                steps=steps,
                callbacks=[Report()],
                input_modifiers=[
                    Jitter(max(1, model.input_shape[1] // 16)),
                    lambda pixels: tf.clip_by_value(pixels, 0.0, 255.0),
                ],
                regularizers=[TotalVariation2D(weight=TOTAL_VARIATION)],
                optimizer=keras.optimizers.Adam(4.0, epsilon=1e-12),
            )
    return np.asarray(images)[0]


def _on_layer(classifier: Classifier, visualization, images, targets, layer: str, **options) -> RawMaps:
    values = _call(
        classifier, visualization, images, targets,
        penultimate_layer=layer, seek_penultimate_conv_layer=False, expand_cam=False, normalize_cam=False,
        **options,
    )  # fmt: skip
    return _raw(values)


def _scorecam(classifier: Classifier, images, targets, *, layer: str, **options) -> RawMaps:
    with _quiet():
        from tf_keras_vis.scorecam import Scorecam
    targets = _known(classifier, images, targets)
    # One image at a time: in a batch its choice of channels would depend on the other images.
    values = [
        _call(
            classifier, Scorecam, images[i : i + 1], targets[i : i + 1],
            penultimate_layer=layer, seek_penultimate_conv_layer=False, expand_cam=False, normalize_cam=False,
            **options,
        )
        for i in range(len(images))
    ]  # fmt: skip
    return _raw(np.concatenate(values))


def _saliency(classifier: Classifier, images, targets, **options) -> RawMaps:
    with _quiet():
        from tf_keras_vis.saliency import Saliency
    return _raw(_call(classifier, Saliency, images, targets, normalize_map=False, **options))


def _call(
    classifier: Classifier, visualization, images, targets, *, score_of: Callable = lambda score: score, **options
) -> np.ndarray:
    with _quiet():
        from tf_keras_vis.utils.scores import CategoricalScore

        logit = CategoricalScore([int(target) for target in _known(classifier, images, targets)])
        score = lambda output: score_of(logit(output))  # noqa: E731
        images = np.asarray(images, np.float32)
        return np.asarray(visualization(classifier.model, clone=False)(score, images, **options))


def _known(classifier: Classifier, images, targets) -> np.ndarray:
    targets = np.asarray(targets)
    if np.any(targets == PREDICTED):
        predicted = as_array(classifier.logits(np.asarray(images, np.float32))).argmax(axis=-1)
        targets = np.where(targets == PREDICTED, predicted, targets)
    return targets


def _raw(values: np.ndarray) -> RawMaps:
    values = np.asarray(values, np.float32)
    return RawMaps(values, np.abs(values).max(axis=(1, 2)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what tf-keras-vis 0.8.7 says on every call: old import paths, the structure of its inputs, bars."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message=r"The structure of `inputs` doesn't match the expected structure")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="tf_keras_vis")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*scipy.ndimage.interpolation.*")
        yield


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """tf-keras-vis draws from NumPy's global generator: seeded inside, as it was afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
