import keras
import pytest
from keras import layers

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.errors import UserError
from keras_resnet.explanation.classifier import prepare
from keras_resnet.export.serving import check_exportable
from keras_resnet.graphs.heads import INERT, check_classifier, find_head


def network(*end):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="features")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for layer in end:
        x = layer(x)
    return keras.Model(image, x)


@pytest.mark.parametrize("kind", [kind for kind in INERT if "Spatial" not in kind.__name__], ids=lambda k: k.__name__)
def test_what_is_inert_is_so_for_everyone(kind):
    """Explanation, export and folding once had a list each, which disagreed about GaussianDropout."""
    options = {} if kind in (layers.Identity, layers.ActivityRegularization) else {"rate": 0.5}
    if kind is layers.GaussianNoise:
        options = {"stddev": 0.5}
    model = network(kind(**options), layers.Dense(5, name="logits"), kind(**options))
    head = find_head(model)
    assert (head.activation, head.dense, head.pooling) == ("linear", "logits", "pool")
    assert check_exportable(model, Preprocessing(8, 8, 3, (0.5,) * 3, (0.5,) * 3)) == head
    assert prepare(model).closed_form_head("features").name == "logits"


@pytest.mark.parametrize(
    ("end", "activation"),
    [
        ([layers.Dense(5)], "linear"),
        ([layers.Dense(5, activation="softmax")], "softmax"),
        ([layers.Dense(5), layers.Softmax()], "softmax"),
        ([layers.Dense(5), layers.Activation("sigmoid"), layers.Dropout(0.5)], "sigmoid"),
        ([keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="softmax")])], "softmax"),
        ([keras.Sequential([keras.Input((4,)), layers.Dense(5)]), layers.Softmax()], "softmax"),
    ],
)
def test_what_becomes_of_the_logits_is_found_at_any_depth(end, activation):
    head = find_head(network(*end))
    assert (head.activation, head.has_probabilities) == (activation, activation != "linear")


def test_other_ends_are_refused():
    with pytest.raises(UserError, match="ends in the activation 'relu'"):
        check_classifier(network(layers.Dense(5, activation="relu")))
    with pytest.raises(UserError, match="exclusive classes"):
        check_exportable(network(layers.Dense(5, activation="sigmoid")), Preprocessing(8, 8, 3, (0.5,) * 3, (0.5,) * 3))
