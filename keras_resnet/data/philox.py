"""Random numbers as TensorFlow's stateless operators draw them, in NumPy: the same bits from the same seeds.

The generator is Philox 4×32 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a
number depends on the seed and its position alone. `order` says what a training draws.
"""

import numpy as np

ORDER, IMAGES, BATCHES, RECORDS, TURNS = range(5)  # what a number is drawn for

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_SCRAMBLE = (0x3EC8F720, 0x02461E29)  # what TensorFlow mixes a seed with, so that neighbouring seeds are unlike
_WORD = 0xFFFFFFFF


def bits(seed: np.ndarray, count: int) -> np.ndarray:
    """Draws 32 random bits each.

    Args:
        seed: int32 [2].
        count: How many.

    Returns:
        uint32 [count]: what `tf.random.stateless_uniform(alg="philox")` makes its numbers of.
    """
    first, second = (int(value) & 0xFFFFFFFFFFFFFFFF for value in np.asarray(seed))  # a negative seed fills 64 bits
    halves = [first & _WORD, first >> 32, second & _WORD, second >> 32]
    mixed = _philox(np.array([halves], np.uint64), _SCRAMBLE)[0]
    blocks = -(-count // 4)
    counters = np.zeros((blocks, 4), np.uint64)
    counters[:, 0] = np.arange(blocks)
    counters[:, 2:] = mixed[2:]
    return _philox(counters, (int(mixed[0]), int(mixed[1]))).reshape(-1)[:count].astype(np.uint32)


def integers(seed: np.ndarray, shape: tuple[int, ...], limit: int | None = None) -> np.ndarray:
    """Draws whole numbers.

    Args:
        seed: int32 [2].
        shape: Of the result.
        limit: The numbers are 0..limit - 1; None draws from all of int32.

    Returns:
        int32 of the shape.
    """
    drawn = bits(seed, int(np.prod(shape))).reshape(shape)
    return drawn.view(np.int32) if limit is None else (drawn % np.uint32(limit)).astype(np.int32)


def uniform(seed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draws float32 numbers of a shape, at least 0 and below 1."""
    # 23 bits behind the point of a number between 1 and 2.
    drawn = (bits(seed, int(np.prod(shape))) & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)
    return drawn.view(np.float32).reshape(shape) - np.float32(1.0)


def fold_in(seed: np.ndarray, number: int) -> np.ndarray:
    """Derives a seed, int32 [2], for a number: `tf.random.fold_in`."""
    return np.array([integers(seed, ())[()], number], np.int32)


def split(seed: np.ndarray, count: int) -> np.ndarray:
    """Derives seeds, int32 [count, 2]: `tf.random.split`."""
    return integers(seed, (count, 2))


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Draws the order of an epoch, int32 [count], as `order.permutation` does."""
    return np.argsort(integers(_purpose(seed, epoch, ORDER), (count,)), kind="stable").astype(np.int32)


def balanced_positions(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """Draws the order of an epoch in which every class comes equally often, as `order.balanced_positions` does."""
    count = len(labels)
    shuffled = permutation(seed, epoch, count)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    slots = class_turns(labels)
    return by_class[slots][np.argsort(integers(_purpose(seed, epoch, TURNS), (count,)), kind="stable")]


def class_turns(labels: np.ndarray) -> np.ndarray:
    """Returns where the classes' examples lie, sorted by class, when the classes take turns: int32 [count]."""
    count = len(labels)
    _, sizes = np.unique(labels, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    turns, classes = np.divmod(np.arange(count), len(sizes))
    return (starts[classes] + turns % sizes[classes]).astype(np.int32)


def draw_seeds(seed: int, epoch: int, purpose: int, count: int) -> np.ndarray:
    """Draws seeds, int32 [count, 2], as `order.draw_seeds` does."""
    return integers(_purpose(seed, epoch, purpose), (count, 2))


def _purpose(seed: int, epoch: int, purpose: int) -> np.ndarray:
    return fold_in(np.array([seed, epoch], np.int32), purpose)


def _philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """uint64 [n, 4] of 32 bits each → the same: a block of the stream for each counter."""
    a, b, c, d = (counters[:, column] for column in range(4))
    word, half = np.uint64(_WORD), np.uint64(32)
    for number in range(_ROUNDS):
        keys = [np.uint64((start + number * step) & _WORD) for start, step in zip(key, _WEYL, strict=True)]
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (second >> half) ^ b ^ keys[0],
            second & word,
            (first >> half) ^ d ^ keys[1],
            first & word,
        )
    return np.stack([a, b, c, d], axis=1)
