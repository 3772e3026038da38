"""The stream of batches: what it depends on, what it holds, and that in-memory and on-disk ways agree."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data import reading
from keras_resnet.data.batches import evaluation_batches, steps_per_epoch, training_batches
from keras_resnet.data.dataset import DatasetSpec
from keras_resnet.data.images import read_image
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.reading import examples_at, sample_images
from keras_resnet.data.scanning import scan_files
from keras_resnet.data.splits import DECODER_JPEG, DECODER_PILLOW, DECODER_TENSORFLOW, ArraySplit, FileSplit
from keras_resnet.data.transforms import preprocess
from keras_resnet.errors import UserError

SETTINGS = Preprocessing(16, 16, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), labels=tuple("abcde"))
AUGMENTATIONS = ["none", "crop", "crop_flip", "inception_crop_flip"]


@pytest.fixture
def arrays():
    """37 images, not a multiple of any batch size used here; each is told by its pixels."""
    rng = np.random.default_rng(0)
    return ArraySplit(rng.integers(0, 256, (37, 16, 16, 3), np.uint8), np.arange(37, dtype=np.int32) % 5)


@pytest.fixture(scope="module")
def uneven_files(tmp_path_factory):
    """Files of several sizes and formats, one of which only Pillow reads, and one of which is turned by its EXIF."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(1)
    paths = []
    for number in range(12):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((20 + number, 30 - number))
        path = folder / f"{number}.{['jpg', 'png', 'bmp'][number % 3]}"
        exif = Image.Exif()
        exif[0x0112] = 6
        (image.convert("1") if number == 5 else image).save(path, **({"exif": exif} if number == 3 else {}))
        paths.append(str(path))
    return file_split(paths)


@pytest.fixture(scope="module")
def even_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("even")
    paths = []
    for number in range(10):
        path = folder / f"{number}.jpg"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        paths.append(str(path))
    return file_split(paths)


def file_split(paths):
    scanned = scan_files(paths)
    assert not any(file.problem for file in scanned)
    return FileSplit(
        tuple(paths),
        np.arange(len(paths), dtype=np.int32) % 3,
        np.array([(file.height, file.width) for file in scanned], np.int32),
        np.array([file.decoder for file in scanned], np.uint8),
    )


def collect(dataset):
    batches = list(dataset.as_numpy_iterator())
    return [images for images, _ in batches], [labels for _, labels in batches]


def assert_same_stream(one, other):
    one, other = list(one.as_numpy_iterator()), list(other.as_numpy_iterator())
    assert len(one) == len(other) > 0
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.mark.parametrize(
    ("kind", "augmentation"),
    [
        ("arrays", "none"),
        ("arrays", "crop"),
        ("arrays", "crop_flip"),
        ("arrays", "inception_crop_flip"),
        ("arrays", "crop_flip,mixup,cutmix"),
        ("arrays", "crop_flip,color_jitter,mixup_cutmix"),
        ("even_files", "crop_flip"),
        ("uneven_files", "crop_flip"),
        ("uneven_files", "inception_crop_flip"),
        ("uneven_files", "inception_crop_flip,cutmix"),
    ],
)
def test_a_resumed_stream_equals_the_rest_of_an_uninterrupted_one(request, kind, augmentation):
    split = request.getfixturevalue(kind)
    options = {"batch_size": 5, "seed": 7, "epochs": 4, "augmentation": augmentation}
    steps = steps_per_epoch(split, 5)
    whole = training_batches(split, SETTINGS, **options)
    resumed = training_batches(split, SETTINGS, first_epoch=2, **options)
    assert_same_stream(whole.skip(2 * steps), resumed)


@pytest.mark.parametrize("kind", ["arrays", "uneven_files"])
@pytest.mark.parametrize("augmentation", ["crop_flip", "inception_crop_flip,mixup"])
def test_a_stream_with_repeats_is_resumed_as_well(request, kind, augmentation):
    split = request.getfixturevalue(kind)
    options = {"batch_size": 5, "seed": 7, "epochs": 3, "augmentation": augmentation, "repeats": 3}
    whole = training_batches(split, SETTINGS, **options)
    resumed = training_batches(split, SETTINGS, first_epoch=1, **options)
    assert_same_stream(whole.skip(steps_per_epoch(split, 5)), resumed)


@pytest.mark.parametrize("kind", ["arrays", "uneven_files"])
@pytest.mark.parametrize("repeats", [1, 3, 7])
def test_repeats_show_fewer_examples_several_times_in_as_many_steps(request, kind, repeats):
    split = request.getfixturevalue(kind)
    plain = np.concatenate(collect(training_batches(split, SETTINGS, batch_size=4, seed=3, epochs=2))[0])
    options = {"batch_size": 4, "seed": 3, "epochs": 2, "repeats": repeats}
    repeated = np.concatenate(collect(training_batches(split, SETTINGS, **options))[0])
    count = len(split) // 4 * 4
    order = np.arange(2 * count).reshape(2, count)[:, : -(-count // repeats)]
    expected = order.repeat(repeats, axis=1)[:, :count].reshape(-1)
    np.testing.assert_array_equal(repeated, plain[expected])


@pytest.mark.parametrize("augmentation", ["crop_flip", "inception_crop_flip"])
def test_repeated_examples_are_changed_anew(arrays, augmentation):
    options = {"batch_size": 12, "seed": 3, "epochs": 1, "augmentation": augmentation, "repeats": 4}
    images, labels = collect(training_batches(arrays, SETTINGS, **options))
    for batch, targets in zip(images, labels, strict=True):
        np.testing.assert_array_equal(targets, targets[::4].repeat(4))
        # An image has 50 crops, so that two of four copies are equal in every eighth group.
        assert len({image.tobytes() for image in batch}) >= 10


def test_a_finished_run_has_nothing_left(arrays):
    dataset = training_batches(arrays, SETTINGS, batch_size=5, seed=7, first_epoch=4, epochs=4)
    assert collect(dataset) == ([], [])


@pytest.mark.parametrize("augmentation", ["crop_flip", "inception_crop_flip"])
def test_the_stream_depends_on_the_seed_and_the_epoch(arrays, augmentation):
    def stream(seed):
        options = {"batch_size": 18, "seed": seed, "epochs": 2, "augmentation": augmentation}
        return np.stack(collect(training_batches(arrays, SETTINGS, **options))[0])

    zero = stream(0)
    np.testing.assert_array_equal(zero, stream(0))
    assert (zero != stream(1)).any()
    first, second = np.split(zero, 2)
    assert (first != second).any()


def test_the_stream_does_not_depend_on_the_number_of_threads(arrays):
    def stream(threads):
        steps = "crop_flip,trivialaugment,pca_noise,mixup_cutmix"
        dataset = training_batches(arrays, SETTINGS, batch_size=6, seed=7, epochs=2, augmentation=steps)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = threads
        options.autotune.enabled = threads > 1
        return dataset.with_options(options)

    assert_same_stream(stream(1), stream(6))


def test_an_epoch_shows_every_example_once(arrays):
    images, labels = collect(training_batches(arrays, SETTINGS, batch_size=37, seed=3, epochs=2))
    expected = preprocess(arrays.images, SETTINGS).numpy()
    orders = []
    for epoch_images, epoch_labels in zip(images, labels, strict=True):
        order = [int(np.flatnonzero((expected == image).all(axis=(1, 2, 3)))[0]) for image in epoch_images]
        assert sorted(order) == list(range(37))
        np.testing.assert_array_equal(arrays.labels[order], epoch_labels)
        orders.append(order)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("kind", ["arrays", "even_files", "uneven_files"])
def test_without_augmentation_training_sees_the_images_of_evaluation(request, kind):
    split = request.getfixturevalue(kind)
    trained, _ = collect(training_batches(split, SETTINGS, batch_size=len(split), seed=0, epochs=1))
    evaluated, _ = collect(evaluation_batches(split, SETTINGS, batch_size=len(split)))
    assert sorted(image.tobytes() for image in trained[0]) == sorted(image.tobytes() for image in evaluated[0])


@pytest.mark.parametrize("kind", ["arrays", "even_files", "uneven_files"])
@pytest.mark.parametrize("augmentation", ["crop_flip", "inception_crop_flip"])
def test_training_batches_are_whole(request, kind, augmentation):
    split = request.getfixturevalue(kind)
    dataset = training_batches(split, SETTINGS, batch_size=4, seed=0, epochs=3, augmentation=augmentation)
    images, labels = collect(dataset)
    assert dataset.element_spec == (
        tf.TensorSpec([4, 16, 16, 3], tf.float32),
        tf.TensorSpec([4], tf.int32),
    )
    assert len(images) == 3 * steps_per_epoch(split, 4) == 3 * (len(split) // 4)
    assert {part.shape for part in images} == {(4, 16, 16, 3)}
    assert {part.shape for part in labels} == {(4,)}


def test_mixed_labels_are_distributions_over_all_classes(arrays):
    mixed = training_batches(arrays, SETTINGS, batch_size=12, seed=7, epochs=1, augmentation="mixup:1")
    plain = training_batches(arrays, SETTINGS, batch_size=12, seed=7, epochs=1)
    assert mixed.element_spec == (tf.TensorSpec([12, 16, 16, 3]), tf.TensorSpec([12, 5]))
    for (images, targets), (unmixed, labels) in zip(mixed.as_numpy_iterator(), plain.as_numpy_iterator(), strict=True):
        one_hot = np.eye(5)[labels]
        different = labels != labels[::-1]
        share = targets[different, labels[different]][0]
        np.testing.assert_allclose(targets, share * one_hot + (1 - share) * one_hot[::-1], atol=1e-6)
        # Normalization is linear, so that the network's inputs are mixed as the pixels are; float32 of up to 255.
        np.testing.assert_allclose(images, share * unmixed + (1 - share) * unmixed[::-1], atol=1e-4)


def test_mixing_labels_needs_their_number(arrays):
    unnamed = dataclasses.replace(SETTINGS, labels=())
    with pytest.raises(UserError, match="Give it labels"):
        training_batches(arrays, unnamed, batch_size=4, seed=0, epochs=1, augmentation="crop,cutmix")


@pytest.mark.parametrize("kind", ["arrays", "even_files", "uneven_files"])
def test_examples_are_read_by_position(request, kind):
    split = request.getfixturevalue(kind)
    pixels = dataclasses.replace(SETTINGS, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    everything = np.concatenate(collect(evaluation_batches(split, pixels, batch_size=8))[0])
    positions = [7, 2, 2, 9]
    images, labels = examples_at(split, SETTINGS, positions)
    np.testing.assert_array_equal(images, everything[positions])
    np.testing.assert_array_equal(labels, split.labels[positions])
    nothing, no_labels = examples_at(split, SETTINGS, [])
    assert nothing.shape == (0, 16, 16, 3)
    assert no_labels.shape == (0,)


@pytest.mark.parametrize("kind", ["arrays", "even_files", "uneven_files"])
def test_evaluation_holds_every_example_in_order(request, kind):
    split = request.getfixturevalue(kind)
    dataset = evaluation_batches(split, SETTINGS, batch_size=8)
    images, labels = collect(dataset)
    assert int(dataset.cardinality()) == len(images)
    np.testing.assert_array_equal(np.concatenate(labels), split.labels)
    sources = list(split.images) if isinstance(split, ArraySplit) else [read_image(path, 3) for path in split.paths]
    expected = np.stack([preprocess(image, SETTINGS).numpy() for image in sources])
    # The same operators on a batch and on an image: not a bit differs.
    np.testing.assert_array_equal(np.concatenate(images), expected)


@pytest.mark.parametrize("kind", ["even_files", "uneven_files"])
@pytest.mark.parametrize("channels", [1, 3])
def test_kept_and_newly_decoded_images_give_the_same_stream(request, monkeypatch, kind, channels):
    split = request.getfixturevalue(kind)
    settings = Preprocessing(16, 16, channels, (0.5,) * channels, (0.5,) * channels)
    options = {"batch_size": 4, "seed": 1, "epochs": 2, "augmentation": "inception_crop_flip"}
    kept = dataclasses.replace(split)
    training, evaluation = (
        list(training_batches(kept, settings, **options).as_numpy_iterator()),
        list(evaluation_batches(kept, settings, batch_size=4).as_numpy_iterator()),
    )
    assert kept in reading._kept
    monkeypatch.setattr(reading, "MEMORY_LIMIT_BYTES", 0)
    decoded = dataclasses.replace(split)
    again = list(training_batches(decoded, settings, **options).as_numpy_iterator())
    evaluated = list(evaluation_batches(decoded, settings, batch_size=4).as_numpy_iterator())
    assert decoded not in reading._kept
    tf.nest.map_structure(np.testing.assert_array_equal, training + evaluation, again + evaluated)


def test_crop_flip_is_the_same_from_memory_and_from_disk(even_files, monkeypatch):
    options = {"batch_size": 4, "seed": 1, "epochs": 2, "augmentation": "crop_flip"}
    kept = list(training_batches(dataclasses.replace(even_files), SETTINGS, **options).as_numpy_iterator())
    monkeypatch.setattr(reading, "MEMORY_LIMIT_BYTES", 0)
    decoded = list(training_batches(dataclasses.replace(even_files), SETTINGS, **options).as_numpy_iterator())
    tf.nest.map_structure(np.testing.assert_array_equal, kept, decoded)


def test_the_fixture_takes_every_way_of_decoding(uneven_files, even_files):
    assert set(uneven_files.decoders) == {DECODER_JPEG, DECODER_TENSORFLOW, DECODER_PILLOW}
    assert set(even_files.decoders) == {DECODER_JPEG}


def test_pixels_are_let_go_with_their_split():
    split = ArraySplit(np.zeros((4, 16, 16, 3), np.uint8), np.zeros(4, np.int32))
    collect(evaluation_batches(split, SETTINGS, batch_size=2))
    assert split in reading._kept
    reference = weakref.ref(split)
    del split
    gc.collect()
    assert reference() is None


def test_images_of_another_size_and_channel_count_are_brought_to_the_network(arrays):
    grey = ArraySplit(arrays.images[..., :1], arrays.labels)
    settings = dataclasses.replace(SETTINGS, height=24, width=20)
    for augmentation in AUGMENTATIONS:
        images, _ = collect(training_batches(grey, settings, batch_size=8, seed=0, epochs=1, augmentation=augmentation))
        assert {part.shape for part in images} == {(8, 24, 20, 3)}


@pytest.mark.parametrize("kind", ["arrays", "uneven_files"])
def test_a_sample_is_even_over_the_classes(request, kind):
    split = request.getfixturevalue(kind)
    images, labels = sample_images(split, SETTINGS, 7, seed=2)
    counts = np.bincount(labels, minlength=len(np.unique(split.labels)))
    assert counts.sum() == 7
    assert counts.max() - counts.min() <= 1
    assert images.shape == (7, 16, 16, 3)
    assert images.dtype == np.float32
    assert 1 < images.max() <= 255
    again, again_labels = sample_images(split, SETTINGS, 7, seed=2)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, again_labels)
    assert len(sample_images(split, SETTINGS, 1000)[1]) == len(split)


def test_a_sample_holds_the_images_of_its_labels(arrays):
    images, labels = sample_images(arrays, SETTINGS, 37)
    positions = [int(np.flatnonzero((arrays.images == image).all(axis=(1, 2, 3)))[0]) for image in images]
    assert sorted(positions) == list(range(37))
    np.testing.assert_array_equal(arrays.labels[positions], labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 38}, "at most 37"),
        ({"batch_size": 0}, "batch size"),
        ({"seed": -1}, "seed"),
        ({"first_epoch": 3}, "first epoch"),
        ({"repeats": 0}, "at least once"),
        ({"augmentation": "crop_flp"}, "'crop_flip'"),
    ],
)
def test_what_breaks_a_rule_is_refused(arrays, options, message):
    with pytest.raises(UserError, match=message):
        training_batches(arrays, SETTINGS, **{"batch_size": 4, "seed": 0, "epochs": 2, **options})


def test_a_balanced_order_draws_every_class_equally_often_and_every_example_in_time():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 15, 5]).astype(np.int32)
    images = rng.integers(0, 256, (60, 16, 16, 3), np.uint8)
    split = ArraySplit(images, labels)
    options = {"batch_size": 20, "seed": 3, "epochs": 4, "balanced": True}
    drawn = list(training_batches(split, SETTINGS, **options).as_numpy_iterator())
    assert len(drawn) == 4 * 3
    for epoch in range(4):
        epoch_labels = np.concatenate([batch[1] for batch in drawn[3 * epoch : 3 * epoch + 3]])
        assert np.bincount(epoch_labels).tolist() == [20, 20, 20]
    keys = {image.tobytes() for batch, _ in drawn for image in batch}
    assert len(keys) > 50  # a class of 40 shows 20 an epoch, others each time
    later = list(training_batches(split, SETTINGS, **options, first_epoch=2).as_numpy_iterator())
    for (a, x), (b, y) in zip(drawn[6:], later, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(x, y)


def test_validation_is_cut_anew_from_training_images_alone(arrays):
    labels = np.arange(40, dtype=np.int32) % 2
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    data = DatasetSpec.from_arrays(images[:30], labels[:30], images[30:], labels[30:])
    cut = data.with_validation(0.4)
    assert (len(cut.train), len(cut.validation), len(cut.test)) == (18, 12, 10)
    assert cut.test is data.test
    parts = [{image.tobytes() for image in split.images} for split in (cut.train, cut.validation)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {image.tobytes() for image in images[:30]}
