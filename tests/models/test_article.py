"""The article's network computes what the article's PyTorch listing computes."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet.models.resnet import build_model

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("recipe", HERE / "record_article_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_article_network_equals_the_recorded_output_of_the_article(recipe):
    images = recipe.article_images()
    model = build_model("article_resnet", input_shape=images.shape[1:])
    layer_of = {
        "conv1": "stem_conv",
        "conv2": "stem_conv2",
        "residual.0": "stage1_block1_conv1",
        "residual.2": "stage1_block1_conv2",
    }
    weights = recipe.article_weights()
    for torch_name, layer_name in layer_of.items():
        kernel = weights[f"{torch_name}.weight"].transpose(2, 3, 1, 0)
        model.get_layer(layer_name).set_weights([kernel, weights[f"{torch_name}.bias"]])
    features = keras.Model(model.input, model.get_layer("features").output)
    recorded = np.load(HERE / "data" / "article_reference.npz", allow_pickle=False)["output"]
    # Float32 sums over 576 products of size near 1/24: rounding stays near 1e-6.
    np.testing.assert_allclose(features.predict(images, verbose=0), recorded, rtol=0, atol=1e-5)
    assert recorded.std() > 0.1, "a reference of zeros would prove nothing"
