"""Drawn shapes: deterministic, balanced, with true masks; nothing but the outline tells the classes apart."""

import numpy as np
import pytest

from keras_resnet.data.shapes import SHAPES, draw_shapes
from keras_resnet.errors import UserError


@pytest.fixture(scope="module")
def drawn():
    return draw_shapes(512, 32, seed=0)


def test_the_arrays_are_what_a_split_holds(drawn):
    images, labels, masks, mark_masks = drawn
    assert (images.shape, images.dtype) == ((512, 32, 32, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((512,), np.int32)
    assert (masks.shape, masks.dtype) == ((512, 32, 32), bool)
    assert (mark_masks.shape, mark_masks.dtype) == ((512, 32, 32), bool)
    assert not mark_masks.any()
    assert np.bincount(labels).tolist() == [64] * len(SHAPES)


def test_an_image_hangs_on_seed_stream_and_position_alone(drawn):
    fewer = draw_shapes(300, 32, seed=0)
    for all_of_them, some in zip(drawn, fewer, strict=True):
        np.testing.assert_array_equal(all_of_them[:300], some)
    assert (draw_shapes(8, 32, seed=1)[0] != fewer[0][:8]).any()
    assert (draw_shapes(8, 32, seed=0, stream=1)[0] != fewer[0][:8]).any()


def test_a_seed_means_the_same_scene_at_every_size():
    """Lengths are parts of the side, so a mask covers the same part but for the rounding of its edge."""
    small, large = draw_shapes(64, 32, seed=3), draw_shapes(64, 96, seed=3)
    np.testing.assert_array_equal(small[1], large[1])
    assert np.abs(small[2].mean(axis=(1, 2)) - large[2].mean(axis=(1, 2))).max() < 0.015


def test_every_object_lies_whole_inside_its_image(drawn):
    masks = drawn[2]
    border = np.ones((32, 32), bool)
    border[1:-1, 1:-1] = False
    assert not (masks & border).any()
    assert masks.mean(axis=(1, 2)).min() > 0.03


def test_the_mask_is_where_the_outline_is(drawn):
    """A circle's mask holds its centre, a ring's does not; inside the mask is another colour than outside."""
    images, labels, masks, _ = drawn
    rows, columns = np.indices((32, 32))
    for label, hollow in (("circle", False), ("ring", True)):
        for mask in masks[labels == SHAPES.index(label)]:
            centre = round((rows * mask).sum() / mask.sum()), round((columns * mask).sum() / mask.sum())
            assert mask[centre] != hollow
    for label in range(len(SHAPES)):
        chosen = labels == label
        inside = np.array([image[mask].mean(axis=0) for image, mask in zip(images[chosen], masks[chosen], strict=True)])
        outside = np.array(
            [image[~mask].mean(axis=0) for image, mask in zip(images[chosen], masks[chosen], strict=True)]
        )
        # The object's colour was chosen to stand out; texture and a poor choice of colours may bring it nearer.
        assert np.median(np.linalg.norm(inside - outside, axis=1)) > 100


def test_colour_and_background_tell_nothing_about_the_class():
    """The background's mean colour predicts the class no better than chance: the nearest of eight class means
    is right in an eighth of 1,024 fresh images, with a standard deviation of 1 %; the bound is chance and four
    deviations.
    """
    train, test = draw_shapes(2048, 16, seed=0), draw_shapes(1024, 16, seed=0, stream=1)

    def background(drawn):
        images, _, masks, _ = drawn
        visible = (~masks)[..., np.newaxis]
        return (images * visible).sum(axis=(1, 2)) / visible.sum(axis=(1, 2))

    means = np.stack([background(train)[train[1] == label].mean(axis=0) for label in range(8)])
    nearest = np.linalg.norm(background(test)[:, np.newaxis] - means, axis=-1).argmin(axis=1)
    assert (nearest == test[1]).mean() < 1 / 8 + 4 * np.sqrt(1 / 8 * 7 / 8 / 1024)


def test_a_planted_mark_follows_its_class_in_training_and_no_class_in_the_test():
    star = SHAPES.index("star")
    images, labels, masks, marks = draw_shapes(1024, 32, seed=0, planted_class="star", planted_fraction=0.75)
    marked = marks.any(axis=(1, 2))
    assert not marked[labels != star].any()
    assert 0.6 < marked[labels == star].mean() < 0.9  # 128 draws of 0.75: a standard deviation of 0.04
    plain = draw_shapes(1024, 32, seed=0)
    np.testing.assert_array_equal(labels, plain[1])
    np.testing.assert_array_equal((images != plain[0]).any(axis=-1) & ~marks, np.zeros_like(marks))
    assert not (masks & marks).any()
    assert len(np.unique(marks[marked], axis=0)) == 1
    assert len(np.unique(images[marked][:, marks[marked][0]], axis=0)) == 1
    _, labels, _, marks = draw_shapes(1024, 32, seed=0, planted_class="star", marks_follow_class=False)
    for label in range(len(SHAPES)):
        assert 0.3 < marks[labels == label].any(axis=(1, 2)).mean() < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"size": 8}, "at least 16"),
        ({"planted_class": "sqare"}, "'square'"),
        ({"planted_class": "square", "planted_fraction": 1.5}, r"0\.\.1"),
    ],
)
def test_what_breaks_a_rule_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        draw_shapes(**{"count": 8, "size": 16, "seed": 0, **options})
