import dataclasses

import keras
import numpy as np
import pytest

from keras_resnet.errors import UserError
from keras_resnet.training.checkpoints import (
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    restore_newest,
    save_checkpoint,
)


def network(units=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(units)])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def state(model, optimizer):
    return [np.asarray(v) for v in (*model.variables, *optimizer.variables)]


def step(model, optimizer, value):
    model(np.ones((2, 4), "float32"), training=True)  # moves the state of the dropout's generator
    optimizer.apply([keras.ops.ones_like(v) * value for v in model.trainable_variables])


def test_a_checkpoint_brings_every_variable_back(tmp_path):
    model, optimizer = network()
    step(model, optimizer, 1.0)
    expected = state(model, optimizer)
    progress = TrainingState(epoch=3, best_epoch=2, best_accuracy=0.5, best_loss=0.25, seconds=1.5, cpu_seconds=2.5)
    path = save_checkpoint(tmp_path, model, optimizer, progress)
    step(model, optimizer, 2.0)
    assert any((a != b).any() for a, b in zip(expected, state(model, optimizer), strict=True))
    assert load_checkpoint(path, model, optimizer) == progress
    for got, want in zip(state(model, optimizer), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    model, optimizer = network()
    for epoch in range(1, 7):
        save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=epoch, best_epoch=min(epoch, 2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-00002.npz",
        "epoch-00005.npz",
        "epoch-00006.npz",
    ]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    model, optimizer = network()
    save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=1, best_epoch=1))
    expected = state(model, optimizer)
    step(model, optimizer, 1.0)
    newest = save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=2, best_epoch=1))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 0xFF
    newest.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    lines = []
    assert restore_newest(tmp_path, model, optimizer, report=lines.append).epoch == 1
    assert "epoch-00002.npz is damaged" in lines[0]
    for got, want in zip(state(model, optimizer), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_only_the_process_that_writes_removes_a_damaged_checkpoint(tmp_path):
    model, optimizer = network()
    save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=1, best_epoch=1))
    newest = checkpoint_path(tmp_path, 2)
    newest.write_bytes(b"rubbish")
    assert restore_newest(tmp_path, model, optimizer, writes=False).epoch == 1
    assert newest.exists()
    assert restore_newest(tmp_path, model, optimizer).epoch == 1
    assert not newest.exists()


def test_a_lost_best_checkpoint_is_counted_anew(tmp_path):
    model, optimizer = network()
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=epoch, best_epoch=1, best_accuracy=0.9))
    checkpoint_path(tmp_path, 1).write_bytes(b"rubbish")
    lines = []
    progress = restore_newest(tmp_path, model, optimizer, report=lines.append)
    assert dataclasses.replace(progress, epoch=0) == TrainingState()
    assert progress.epoch == 4
    assert "counted anew" in lines[0]


def test_nothing_to_restore(tmp_path):
    assert restore_newest(tmp_path / "absent", *network()) == TrainingState()


def test_pickles_are_refused(tmp_path):
    path = checkpoint_path(tmp_path, 1)
    with open(path, "wb") as file:
        np.savez(file, progress=np.array([{"epoch": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, *network())


def test_another_networks_checkpoint_is_refused_and_stays(tmp_path):
    path = save_checkpoint(tmp_path, *network(), TrainingState(epoch=1))
    with pytest.raises(UserError, match="another network"):
        restore_newest(tmp_path, *network(units=5))
    assert path.is_file()


def test_any_damage_is_found_and_the_older_checkpoint_used(tmp_path):
    """Python's zipfile raises seven kinds of errors, by the byte that is wrong."""
    model, optimizer = network()
    save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=1, best_epoch=1))
    expected = state(model, optimizer)
    newest = save_checkpoint(tmp_path, model, optimizer, TrainingState(epoch=2, best_epoch=1))
    whole, random = newest.read_bytes(), np.random.default_rng(0)
    headers = [place for place in range(len(whole)) if whole[place : place + 2] == b"PK"]
    damaged = 0
    for number in range(400):
        content = bytearray(whole)
        # Every other time within a header of the archive, where most kinds come from.
        place = int(random.choice(headers) + random.integers(40) if number % 2 else random.integers(len(whole)))
        content[place : place + 2] = random.bytes(2)
        newest.write_bytes(content)
        lines = []
        epoch = restore_newest(tmp_path, model, optimizer, report=lines.append).epoch
        assert epoch == (1 if lines else 2)
        damaged += bool(lines)
        for got, want in zip(state(model, optimizer), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert damaged > 200
