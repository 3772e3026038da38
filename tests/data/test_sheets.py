"""Sheets of augmented images: the right pictures in the right places."""

import numpy as np
import pytest

from keras_resnet.cli import main as keras_resnet
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.sheets import draw_augmentation
from keras_resnet.data.splits import ArraySplit
from keras_resnet.errors import UserError

SETTINGS = Preprocessing(32, 32, 3, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return ArraySplit(rng.integers(0, 255, (9, 32, 32, 3), np.uint8), np.arange(9, dtype=np.int32))


def cells(sheet, rows, columns, size=32, times=3):
    """The pictures of a sheet at their own size: uint8 [rows, columns, size, size, 3]."""
    pixels = np.asarray(sheet)
    side = size * times
    found = np.zeros((rows, columns, size, size, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = 4 + row * (side + 4), 4 + column * (side + 4) + (12 if column else 0)
            cell = pixels[top : top + side, left : left + side]
            found[row, column] = cell[::times, ::times]
            np.testing.assert_array_equal(cell, found[row, column].repeat(times, 0).repeat(times, 1))
    return found


def test_a_row_shows_an_image_and_its_variants(split):
    found = cells(draw_augmentation(split, SETTINGS, "flip", images=5, variants=6, seed=3), 5, 7)
    originals = {image.tobytes() for image in split.images}
    mirrored = 0
    for row in found:
        assert row[0].tobytes() in originals
        for variant in row[1:]:
            is_mirror = (variant == row[0][:, ::-1]).all()
            assert is_mirror or (variant == row[0]).all()
            mirrored += is_mirror
    assert 5 <= mirrored <= 25  # of 30: another number comes once in 20,000 times


def test_images_are_mixed_within_a_column(split):
    found = cells(draw_augmentation(split, SETTINGS, "cutmix", images=4, variants=6), 4, 7)
    for column in range(1, 7):
        pasted = (found[:, column] != found[:, 0]).any(axis=(0, 3))
        expected = np.where(pasted[None, :, :, None], found[::-1, 0], found[:, 0])
        np.testing.assert_array_equal(found[:, column], expected)


def test_the_seed_decides_and_large_images_keep_their_size(split):
    settings = Preprocessing(100, 120, 1, (0.5,), (0.5,))
    options = {"images": 20, "variants": 2}
    first = draw_augmentation(split, settings, "inception_crop_flip", seed=1, **options)
    assert first.size == (16 + 3 * 124, 4 + 9 * 104)  # the split has nine images
    assert first == draw_augmentation(split, settings, "inception_crop_flip", seed=1, **options)
    assert first != draw_augmentation(split, settings, "inception_crop_flip", seed=2, **options)


@pytest.mark.parametrize("options", [{"images": 0}, {"variants": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(split, options):
    with pytest.raises(UserError, match="got"):
        draw_augmentation(split, SETTINGS, "flip", **options)


def test_the_command_writes_a_sheet_for_a_data_set(tiny_data, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    command = ["plot-augmentation", tiny_data, "--output", str(path), "--images", "2", "--variants", "1"]
    assert keras_resnet.main([*command, "--recipe", "he2015"]) == 0
    assert "crop_flip" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")
    for wrong, words in (
        (["--augmentation", "flp"], "'flip'"),
        (["--recipe", "he2014"], "'he2015'"),
        (["--output", str(tmp_path / "sheet.jpg")], "PNG"),
    ):
        assert keras_resnet.main([*command, *wrong]) == 2
        assert words in capsys.readouterr().err
