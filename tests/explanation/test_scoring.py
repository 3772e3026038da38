import keras
import numpy as np
import pytest
from keras import layers
from sklearn.metrics import roc_auc_score

from keras_resnet.errors import UserError
from keras_resnet.explanation import faithfulness, localisation, scoring
from keras_resnet.explanation.classifier import prepare
from keras_resnet.models.resnet import build_model


@pytest.fixture(scope="module")
def corner():
    """A network whose class 1 depends on the 4×4 pixels at the top left alone."""
    inputs = keras.Input((16, 16, 1))
    weights = np.zeros((16, 16, 1, 2), np.float32)
    weights[:4, :4, 0, 1] = 0.5
    logits = layers.Dense(2, name="logits")
    model = keras.Model(inputs, logits(layers.Flatten()(layers.Identity(name="features")(inputs))))
    logits.set_weights([weights.reshape(-1, 2), np.array([0, -4], np.float32)])
    return model


@pytest.fixture(scope="module")
def images():
    return np.ones((3, 16, 16, 1), np.float32)


TARGETS = np.ones(3, np.int32)


def square(top, left, side=4, count=3):
    maps = np.zeros((count, 16, 16), np.float32)
    maps[:, top : top + side, left : left + side] = 1
    return maps


def test_deletion_and_insertion_prefer_the_right_map(corner, images):
    classifier = prepare(corner)
    right, wrong = square(0, 0), square(12, 12)
    assert (faithfulness.deletion(classifier, images, TARGETS, right) < 0.1).all()
    assert (faithfulness.deletion(classifier, images, TARGETS, wrong) > 0.4).all()
    spotted = images.copy()
    spotted[:, 4:] = -1
    spotted[:, :, 4:] = -1
    right_inserted = faithfulness.insertion(classifier, spotted, TARGETS, right)
    assert (right_inserted > faithfulness.insertion(classifier, spotted, TARGETS, wrong)).all()


def test_deletion_area_by_hand(corner, images):
    # A sixteenth of the pixels per step: the right map takes all 16 that count in the first, so the curve falls from p
    # to q there and stays.
    classifier = prepare(corner)
    p, q = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))
    expected = (p + q) / 2 / 16 + q * 15 / 16
    np.testing.assert_allclose(
        faithfulness.deletion(classifier, images, TARGETS, square(0, 0), steps=16), expected, rtol=1e-5
    )


def test_equal_pixels_go_in_a_random_order(corner, images):
    # From the top left first, a map that says nothing would take the corner first and look right.
    nothing = np.zeros((3, 16, 16), np.float32)
    assert (faithfulness.deletion(prepare(corner), images, TARGETS, nothing) > 0.2).all()


def test_road_prefers_the_right_map(corner):
    classifier = prepare(corner)
    images = np.random.default_rng(0).normal(0, 0.1, (3, 16, 16, 1)).astype(np.float32) - 1
    images[:, :4, :4] = 1
    morf, lerf = faithfulness.road(classifier, images, TARGETS, square(0, 0))
    assert (lerf > morf + 0.3).all()
    wrong_morf, wrong_lerf = faithfulness.road(classifier, images, TARGETS, 1 - square(0, 0))
    assert (wrong_lerf < wrong_morf).all()


def test_imputation_solves_its_equations():
    random = np.random.default_rng(0)
    image = random.normal(size=(9, 7, 2)).astype(np.float32)
    removed = random.random((9, 7)) < 0.6
    filled = faithfulness.impute(image, removed, noise=0)
    np.testing.assert_array_equal(filled[~removed], image[~removed])
    for y, x in np.argwhere(removed):
        total, mean = 0, 0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 9 and 0 <= x + dx < 7:
                    weight = 1 / 12 if dy and dx else 1 / 6
                    total, mean = total + weight, mean + weight * filled[y + dy, x + dx]
        np.testing.assert_allclose(filled[y, x], mean / total, atol=1e-5)
    flat = faithfulness.impute(np.full((5, 5, 1), 3, np.float32), np.ones((5, 5), bool), noise=0)
    np.testing.assert_allclose(flat, 3)
    noisy = faithfulness.impute(image, removed, noise=0.01, seed=1)
    assert 0.005 < (noisy - filled)[removed].std() < 0.02


def test_average_drop_and_increase(corner, images):
    classifier = prepare(corner)
    drop, increase = faithfulness.confidence_change(classifier, images, TARGETS, square(0, 0))
    np.testing.assert_allclose(drop, 0, atol=1e-6)
    drop, increase = faithfulness.confidence_change(classifier, images, TARGETS, square(12, 12))
    p, q = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(4))
    np.testing.assert_allclose(drop, (p - q) / p, rtol=1e-5)
    assert not increase.any()
    against = images.copy()
    against[:, 2:4, :4] = -1
    _, increase = faithfulness.confidence_change(
        classifier, against, TARGETS, square(0, 0) - square(2, 0, 2) - square(2, 2, 2)
    )
    assert increase.all()


def test_localisation_by_hand():
    masks = square(2, 2, 6) > 0
    np.testing.assert_allclose(localisation.pointing_game(square(3, 3, 2), masks), 1)
    np.testing.assert_allclose(localisation.pointing_game(square(12, 12, 2), masks), 0)
    np.testing.assert_allclose(localisation.energy_inside(square(0, 0, 4), masks), 4 / 16)
    np.testing.assert_allclose(localisation.energy_inside(np.zeros((3, 16, 16)), masks), 36 / 256)
    assert np.isnan(localisation.energy_inside(square(0, 0), np.zeros((3, 16, 16), bool))).all()
    blurred = square(2, 2, 6) * 0.5 + square(0, 0, 12) * 0.1
    np.testing.assert_allclose(localisation.best_iou(blurred, masks), 1)  # at a threshold between 0.1 and 0.6
    np.testing.assert_allclose(localisation.best_iou(np.zeros((3, 16, 16)), masks), 36 / 256)


def test_rank_correlation_is_spearman_s():
    from scipy.stats import spearmanr

    first, second = np.random.default_rng(0).integers(0, 5, (2, 2, 6, 6))
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(faithfulness.rank_correlation(first, second), expected)
    assert faithfulness.rank_correlation(first, np.zeros((2, 6, 6))).tolist() == [0, 0]


def test_methods_are_scored_beside_the_baselines():
    model = build_model("resnet8", input_shape=(16, 16, 3))
    images = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)
    masks = np.zeros((5, 16, 16), bool)
    masks[:, 4:9, 4:9] = True
    before = model.get_weights()
    scores = scoring.score_methods(model, images, methods=["gradcam"], masks=masks, mark_masks=masks, sanity_images=2)
    assert [score.method for score in scores] == ["gradcam", "gaussian", "random"]
    for score in scores:
        assert tuple(score.per_image) == scoring.SCORES
        assert all(len(values) == 5 for values in score.per_image.values())
        assert np.isnan(score.per_image["sanity"]).sum() == 3
    for name in ("gaussian", "random"):  # they know nothing of the weights
        known = next(score for score in scores if score.method == name)
        assert known.mean("sanity") == pytest.approx(1)
    for weight, same in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    values = scores[0].per_image["deletion"]
    assert scores[0].mean("deletion") == pytest.approx(values.mean())
    assert scores[0].standard_error("deletion") == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    assert scores[0].to_dict()["scores"]["sanity"]["count"] == 2
    again = scoring.score_methods(model, images, methods=["gradcam"], masks=masks, mark_masks=masks, sanity_images=2)
    for name, values in scores[0].per_image.items():
        # Batches are the same, so are the orders of sums.
        np.testing.assert_allclose(again[0].per_image[name], values, atol=1e-6, err_msg=name)


def test_mistakes_are_named():
    model = build_model("resnet8", input_shape=(16, 16, 3))
    images = np.zeros((2, 16, 16, 3), np.float32)
    with pytest.raises(UserError, match="Unknown method 'gradcm'"):
        scoring.score_methods(model, images, methods=["gradcm"])
    with pytest.raises(UserError, match="Unknown score 'delete'"):
        scoring.score_methods(model, images, scores=["delete"])
    with pytest.raises(UserError, match=r"masks must be bool \(2, 16, 16\)"):
        scoring.score_methods(model, images, masks=np.zeros((2, 8, 8), bool))


def trained(data, seed, epochs=8):
    from keras_resnet.data.transforms import normalize

    keras.utils.set_random_seed(seed)
    model = build_model("resnet8", input_shape=data.image_shape, num_classes=8)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    inputs = normalize(data.train.images, data.preprocessing()).numpy()
    model.fit(inputs, data.train.labels, batch_size=64, epochs=epochs, verbose=0, shuffle=True)
    return model


@pytest.mark.slow
def test_maps_give_a_planted_shortcut_away():
    from keras_resnet.data.sources import load_source
    from keras_resnet.data.transforms import normalize
    from keras_resnet.explanation.methods import explain

    planted = load_source("shapes:count=1024,plant=star")
    clean = load_source("shapes:count=1024")
    star = planted.labels.index("star")
    # Of the planted class, so that both networks see a star: where there is none the clean one's map says nothing.
    marked = planted.test.mark_masks.any(axis=(1, 2)) & (planted.test.labels == star)
    assert marked.sum() >= 10
    images, marks = planted.test.images[marked], planted.test.mark_masks[marked]
    shares = []
    for data in (planted, clean):
        model = trained(data, seed=0)
        maps = explain(model, normalize(images, data.preprocessing()).numpy(), star)
        shares.append(localisation.energy_inside(maps, marks))
    belongs_to_planted = np.repeat([1, 0], marked.sum())
    assert roc_auc_score(belongs_to_planted, np.concatenate(shares)) > 0.95
