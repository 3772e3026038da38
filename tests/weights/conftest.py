"""What the tests of weights share: tensors made from names, and networks filled with them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import named_tensors

from keras_resnet.models.resnet import build_model
from keras_resnet.weights import rows

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights beside the checkout."""
    for folder in (SHARED, SHARED.parents[1] / "shared"):
        if (folder / "weights").is_dir():
            return folder
    pytest.skip(f"no real data and weights at {SHARED}")


@pytest.fixture(scope="module")
def remembered_rows():
    """The search for the rows that weights fit builds each row's shallow network once for all tests of a module."""
    build, built = rows.build_weightless, {}

    def remembered(config):
        if max(config.depths) > 1:
            return build(config)  # few are built, and they are large
        if config not in built:
            built[config] = build(config)
        return built[config]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "build_weightless", remembered)
        yield


@pytest.fixture
def images():
    return named_tensors.images()


@pytest.fixture
def small():
    """resnet8 for CIFAR and a state dict for it, in which no two tensors are alike."""
    return build_model("resnet8"), named_tensors.named_state(build_model("resnet8"))


@pytest.fixture(name="named_state")
def named_state_fixture():
    return named_tensors.named_state
