"""The networks that PyTorch is measured with compute what ours do."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.models.registry import get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.weights.pytorch import to_state_dict

torch = pytest.importorskip("torch")
torch_networks = pytest.importorskip("keras_resnet.benchmarks.torch_networks")


PUBLISHED = {
    "resnet20": 269_722, "resnet32": 464_154, "resnet56": 853_018, "resnet18": 11_689_512, "resnet50": 25_557_032
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    network = torch_networks.Network(get_config(name), 3, get_config(name).num_classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(("name", "side"), [("resnet8", 16), ("resnet18", 64), ("resnet50", 64)])
def test_logits_are_ours(name, side):
    """On random statistics; tolerance: float32, sums in another order through up to 53 convolutions."""
    config = get_config(name)
    narrow = tuple(width // 4 for width in config.widths)
    config = dataclasses.replace(config, depths=(1,) * len(narrow), widths=narrow, stem_width=config.stem_width // 4)
    keras.utils.set_random_seed(0)
    model = build_model(config, num_classes=5, input_shape=(side, side, 3))
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    network = torch_networks.Network(config, 3, 5).eval()
    state = {key: torch.tensor(value) for key, value in to_state_dict(model).items()}
    network.load_state_dict(state, strict=False)
    assert not set(network.state_dict()) - set(state) - {k for k in network.state_dict() if k.endswith("tracked")}
    images = random.normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    expected = np.asarray(model(images))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["resnet50d", "resnet20_b", "resnetv2_20", "resnext50_32x4d", "seresnet50"])
def test_other_networks_are_refused(name):
    with pytest.raises(UserError, match=f"got {name}"):
        torch_networks.Network(get_config(name), 3, 10)
