"""Every row that timm has is timm's network: in size, cost and names whole, in its logits five blocks deep."""

import ast
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from named_tensors import images, named_state

from keras_resnet.errors import UserError
from keras_resnet.models.complexity import complexity
from keras_resnet.models.registry import REGISTRY, get_config
from keras_resnet.models.resnet import build_model
from keras_resnet.models.weightless import build_weightless
from keras_resnet.weights import pytorch
from keras_resnet.weights.assign import WeightsError, variables_by_name
from keras_resnet.weights.loading import load_reported, load_weights

RECORDED = json.loads(Path(__file__).with_name("rows.json").read_text())
DEPTHS = (1, 2, 1, 1)
# float32 on both sides, with sums in another order.
RELATIVE = 1e-5


def names_and_shapes(model) -> list[str]:
    """What `to_state_dict` would give, of variables that hold nothing."""
    naming, variables = pytorch.usual_naming(model), variables_by_name(model)
    lines = []
    for name, torch_name in pytorch.torch_names(model, naming).items():
        shape = tuple(variables[name].shape)
        if len(shape) > 1:
            shape = (shape[-1], shape[-2], *shape[:-2])
        if name == "logits/kernel" and pytorch.NAMINGS[naming].head_is_conv:
            shape += (1, 1)
        lines.append(f"{torch_name} {shape}")
        if name.endswith("/moving_variance"):
            lines.append(f"{torch_name.removesuffix('running_var')}num_batches_tracked ()")
    return sorted(lines)


@pytest.mark.parametrize("name", RECORDED["rows"])
def test_size_cost_and_names_are_timms(name):
    recorded = RECORDED["rows"][name]
    model = build_weightless(name)
    cost = complexity(model)
    assert (cost.parameters, cost.multiply_adds) == (recorded["parameters"], recorded["multiply_adds"])
    lines = names_and_shapes(model)
    assert len(lines) == recorded["names"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == recorded["names_sha256"]


@pytest.mark.parametrize("key", RECORDED["shallow"])
@pytest.mark.usefixtures("zero_kernels")
def test_shallow_logits_are_timms(key):
    recorded = RECORDED["shallow"][key]
    expected, pixels = np.array(recorded["logits"]), images(size=64)
    config = get_config(key.split("@")[0]).replace(depths=DEPTHS)
    model = build_model(config, num_classes=expected.shape[1], input_shape=pixels.shape[1:], **recorded["options"])
    state = named_state(model)
    load_reported(model, state)
    found = np.asarray(model(pixels, training=False))
    assert np.abs(found - expected).max() < RELATIVE * np.abs(expected).max()
    # The two images' logits differ by far more than the tolerance, so the comparison sees the images.
    assert np.abs(expected[0] - expected[1]).max() > 50 * RELATIVE * np.abs(expected).max()
    back = pytorch.to_state_dict(model)
    assert all(np.array_equal(back[name], state[name]) for name in state)


def zeros_of(name: str, **options) -> dict[str, np.ndarray]:
    """A state dict of a row, for its names and shapes; zeros that take no memory."""
    pairs = (line.split(" ", 1) for line in names_and_shapes(build_weightless(name, **options)))
    return {key: np.broadcast_to(np.zeros((), np.float32), ast.literal_eval(shape)) for key, shape in pairs}


@pytest.mark.usefixtures("remembered_rows", "zero_kernels")
def test_weights_of_a_network_that_shares_its_name_elsewhere_say_which_row_is_theirs():
    with pytest.raises(UserError, match=r"These are the weights of 'resnetv2_50_timm': use that name\.$") as raised:
        load_weights("resnetv2_50", zeros_of("resnetv2_50_timm"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wanted", "given", "named"),
    [
        ("resnet50d", "resnet50t", "weights of 'resnet50t'"),
        ("resnet18", "resnet20_b", "weights of 'resnet20_b'"),
        ("resnest14d", "resnest26d", "weights of 'resnest26d'"),
        ("skresnet50d", "skresnet50", "weights of 'skresnet50'"),
        ("res2net50_26w_4s", "res2net50_26w_6s", "weights of 'res2net50_26w_6s'"),
        ("resnetv2_50d_gn", "resnetv2_50x1_bit", "weights of 'resnetv2_50x1_bit'"),
        # Pools have no weights: what they fit is told, all of it.
        ("resnet18", "resnet34d", "weights fit 'resnet34d' and 'resnetaa34d'"),
        ("resnet18", "resnet50", "weights fit 'resnet50', 'resnetblur50' and 'resnetaa50'"),
    ],
)
@pytest.mark.usefixtures("remembered_rows", "zero_kernels")
def test_weights_of_another_row_name_it(wanted, given, named):
    with pytest.raises(UserError, match=named):
        load_weights(wanted, zeros_of(given))


@pytest.mark.usefixtures("remembered_rows", "zero_kernels")
def test_another_number_of_classes_is_the_same_network_and_a_missing_tensor_none():
    with pytest.raises(WeightsError, match="weights of 'resnet34'"):
        load_weights("resnet18", zeros_of("resnet34", num_classes=7))
    state = zeros_of("resnet34")
    del state["layer4.2.bn2.weight"]
    with pytest.raises(WeightsError) as raised:
        load_weights("resnet18", state)
    assert "use that name" not in str(raised.value)


def test_every_row_of_timm_is_recorded():
    missing = {name for name in REGISTRY if name not in RECORDED["rows"]}
    # CIFAR's, keras.applications', the article's and MLPerf's: timm has none of them.
    assert all(REGISTRY[name].input_shape[0] == 32 or REGISTRY[name].norm_epsilon == 1.001e-5 for name in missing)
