"""Drawn images of shapes for which the right explanation is known: each comes with the object's mask.

Eight classes differ in the object's outline alone. Its place, size, rotation, colour and texture, the background and
the clutter (open strokes and specks, none of them a class) are drawn independently of the class. A small mark can be
planted in the corner of one class' training images: a shortcut that a network learns in place of the shape, and whose
mask shows whether an explanation gives it away.

An image depends on the seed, its split and its position alone, not on how many are drawn.
"""

from collections.abc import Iterator

import numpy as np

from keras_resnet.errors import UserError, unknown_name

SHAPES = ("arrow", "circle", "crescent", "cross", "ring", "square", "star", "triangle")
MIN_SIZE = 16

_BLOCK = 256  # images whose random numbers are drawn together; part of what a seed means, so never change it
_RENDERED_PIXELS = 1 << 19  # rendered at a time: small enough for the processor's cache
_OVERSAMPLING = 3  # samples a pixel and axis on the object's edge
_STROKES, _SPECKS, _WAVES = 4, 6, 3


def draw_shapes(
    count: int,
    size: int,
    *,
    seed: int,
    stream: int = 0,
    planted_class: str | None = None,
    planted_fraction: float = 0.95,
    marks_follow_class: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws labelled images of shapes.

    Args:
        count: How many; of every block of 256 each class has 32.
        size: Side of the square images in pixels, at least 16.
        seed: Number that all random choices depend on.
        stream: Which of the seed's independent sequences, for example one for each split.
        planted_class: The class whose images carry the corner mark; None plants none.
        planted_fraction: The part of the planted class' images with the mark, 0..1.
        marks_follow_class: False puts the mark on half of all images whatever their class: what a test needs to show
            that a network looks at the mark.

    Returns:
        (images uint8 [N, size, size, 3], labels int32 [N], masks bool [N, size, size] of the object, mark_masks bool
        [N, size, size], empty where an image has no mark).

    Raises:
        UserError: A size, count or fraction out of range, or an unknown class.
    """
    if count < 1:
        raise UserError(f"The number of images must be at least 1, got {count}.")
    if size < MIN_SIZE:
        raise UserError(f"The shapes need images of at least {MIN_SIZE} pixels per side, got {size}.")
    if planted_class is not None and planted_class not in SHAPES:
        raise unknown_name("shape", planted_class, SHAPES)
    if not 0 <= planted_fraction <= 1:
        raise UserError(f"The planted fraction must lie in 0..1, got {planted_fraction}.")
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty(count, np.int32)
    masks = np.empty((count, size, size), bool)
    mark_masks = np.zeros((count, size, size), bool)
    for first in range(0, count, _BLOCK):
        scene = _draw_scene(np.random.default_rng([seed, stream, first // _BLOCK]))
        if planted_class is None:
            marked = np.zeros(_BLOCK, bool)
        elif marks_follow_class:
            is_planted = scene["label"] == SHAPES.index(planted_class)
            marked = is_planted & (scene["chance"] < planted_fraction)
        else:
            marked = scene["chance"] < 0.5
        for begin, end in _slices(min(_BLOCK, count - first), size):
            part = {key: values[begin:end] for key, values in scene.items()}
            target = slice(first + begin, first + end)
            images[target], masks[target] = _render(part, size)
            labels[target] = part["label"]
            _plant(images[target], masks[target], mark_masks[target], marked[begin:end])
    return images, labels, masks, mark_masks


def _slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    step = max(1, _RENDERED_PIXELS // (_OVERSAMPLING * size) ** 2)
    for begin in range(0, count, step):
        yield begin, min(begin + step, count)


def _draw_scene(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The random choices of one block of images; lengths are parts of the image's side."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (_BLOCK, *shape)).astype(np.float32)

    radius = uniform(0.19, 0.33)
    room = 0.5 - radius - 0.02
    background = uniform(0.1, 0.9, 3)
    # The first of 16 random colours that stands out from the background in RGB; the most different one if none does.
    candidates = uniform(0.0, 1.0, 16, 3)
    distance = np.linalg.norm(candidates - background[:, np.newaxis], axis=-1)
    stands_out = distance > 0.6
    first = np.where(stands_out.any(axis=1), stands_out.argmax(axis=1), distance.argmax(axis=1))
    # Clutter: long strokes, and specks that are too short and too thin to be taken for a shape.
    starts = uniform(0.0, 1.0, _STROKES + _SPECKS, 2)
    angle = uniform(0.0, 2 * np.pi, _STROKES + _SPECKS)
    length = np.concatenate([uniform(0.15, 0.6, _STROKES), uniform(0.03, 0.08, _SPECKS)], axis=1)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return {
        "label": rng.permutation(np.arange(_BLOCK) % len(SHAPES)).astype(np.int32),
        "chance": rng.random(_BLOCK),
        "radius": radius,
        "centre": 0.5 + room[:, np.newaxis] * uniform(-1.0, 1.0, 2),
        "angle": uniform(0.0, 2 * np.pi),
        "color": candidates[np.arange(_BLOCK), first],
        "object_wave": _waves(uniform, 2.0, 7.0, 1),
        "object_contrast": uniform(-0.12, 0.12, 3),
        "background": background,
        "background_wave": _waves(uniform, 0.3, 5.0, _WAVES),
        "background_contrast": uniform(-0.16, 0.16, _WAVES, 3),
        "clutter_from": starts,
        "clutter_to": starts + direction * length[..., np.newaxis],
        "clutter_width": np.concatenate([uniform(0.008, 0.03, _STROKES), uniform(0.006, 0.015, _SPECKS)], axis=1),
        "clutter_color": uniform(0.0, 1.0, _STROKES + _SPECKS, 3),
        "noise_seed": rng.integers(0, 2**63, _BLOCK),
        "noise": uniform(0.0, 0.05),
    }


def _waves(uniform, low: float, high: float, count: int) -> np.ndarray:
    """[N, count, 3]: the waves' frequencies along x and y in periods per image, and their phase."""
    frequency, angle, phase = (
        uniform(low, high, count),
        uniform(0, 2 * np.pi, count),
        uniform(0, 2 * np.pi, count),
    )
    return np.stack([2 * np.pi * frequency * np.cos(angle), 2 * np.pi * frequency * np.sin(angle), phase], axis=-1)


def _render(scene: dict[str, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(scene["label"])
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = axis[np.newaxis, np.newaxis, :], axis[np.newaxis, :, np.newaxis]

    def column(values: np.ndarray) -> np.ndarray:
        return values[:, np.newaxis, np.newaxis]

    def wave(parameters: np.ndarray) -> np.ndarray:
        return np.sin(column(parameters[:, 0]) * x + column(parameters[:, 1]) * y + column(parameters[:, 2]))

    def blend(below: np.ndarray, color: np.ndarray, coverage: np.ndarray) -> None:
        below += coverage[..., np.newaxis] * (color - below)

    image = np.empty((count, size, size, 3), np.float32)
    image[:] = scene["background"][:, np.newaxis, np.newaxis, :]
    for number in range(_WAVES):
        contrast = scene["background_contrast"][:, np.newaxis, np.newaxis, number]
        image += wave(scene["background_wave"][:, number])[..., np.newaxis] * contrast
    for number in range(_STROKES + _SPECKS):
        start = scene["clutter_from"][:, number]
        along = scene["clutter_to"][:, number] - start
        from_x, from_y = x - column(start[:, 0]), y - column(start[:, 1])
        along_x, along_y = column(along[:, 0]), column(along[:, 1])
        part = (from_x * along_x + from_y * along_y) / (along_x**2 + along_y**2)
        np.clip(part, 0.0, 1.0, out=part)
        distance = np.hypot(from_x - part * along_x, from_y - part * along_y)
        coverage = np.clip((column(scene["clutter_width"][:, number]) - distance) * size + 0.5, 0.0, 1.0)
        blend(image, scene["clutter_color"][:, number, np.newaxis, np.newaxis], coverage)
    coverage = _object_coverage(scene, size)
    texture = wave(scene["object_wave"][:, 0])[..., np.newaxis] * column(scene["object_contrast"])
    blend(image, column(scene["color"]) + texture, coverage)
    for number in range(count):
        noise = np.random.default_rng(scene["noise_seed"][number]).standard_normal(image[number].shape, np.float32)
        image[number] += noise * scene["noise"][number]
    np.clip(image * 255.0 + 0.5, 0.0, 255.0, out=image)
    return image.astype(np.uint8), coverage >= 0.5


def _object_coverage(scene: dict[str, np.ndarray], size: int) -> np.ndarray:
    """float32 [N, size, size]: the part of each pixel that the object covers, counted on a finer grid."""
    count, fine = len(scene["label"]), size * _OVERSAMPLING
    axis = ((np.arange(fine) + 0.5) / fine).astype(np.float32)
    inside = np.zeros((count, fine, fine), bool)
    for label in range(len(SHAPES)):
        which = np.flatnonzero(scene["label"] == label)
        if len(which) == 0:
            continue
        centre, radius, angle = scene["centre"][which], scene["radius"][which], scene["angle"][which]
        cosine, sine = (np.cos(angle) / radius), (np.sin(angle) / radius)
        x = axis[np.newaxis, np.newaxis, :] - centre[:, 0, np.newaxis, np.newaxis]
        y = axis[np.newaxis, :, np.newaxis] - centre[:, 1, np.newaxis, np.newaxis]
        cosine, sine = cosine[:, np.newaxis, np.newaxis], sine[:, np.newaxis, np.newaxis]
        inside[which] = _OUTLINES[SHAPES[label]](cosine * x + sine * y, cosine * y - sine * x)
    samples = inside.reshape(count, size, _OVERSAMPLING, size, _OVERSAMPLING)
    return samples.sum(axis=(2, 4), dtype=np.uint8).astype(np.float32) / _OVERSAMPLING**2


def _plant(images: np.ndarray, masks: np.ndarray, mark_masks: np.ndarray, marked: np.ndarray) -> None:
    """Sets the mark, a small checkerboard of yellow and violet in the top left corner, into the marked
    images.
    """
    size = images.shape[1]
    side = max(3, round(size / 9))
    square = slice(1, 1 + side)
    cell = max(1, side // 3)
    row, column = np.indices((side, side)) // cell
    checkers = np.where(((row + column) % 2 == 0)[..., np.newaxis], (255, 230, 0), (120, 0, 200)).astype(np.uint8)
    for number in np.flatnonzero(marked):
        images[number, square, square] = checkers
        masks[number, square, square] = False
        mark_masks[number, square, square] = True


# Outlines: whether a point of the object's own frame lies inside. All fit into the circle of radius 1.


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    head = (x > 0.0) & (np.abs(y) < (1.0 - x) * 0.85)
    shaft = (x > -0.95) & (x <= 0.0) & (np.abs(y) < 0.25)
    return head | shaft


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y < 0.9**2


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * x + y * y < 1.0) & ((x - 0.55) ** 2 + y * y > 0.8**2)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) < 0.28) & (np.maximum(x, y) < 0.95)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = x * x + y * y
    return (squared < 1.0) & (squared > 0.58**2)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) < 0.7


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A point lies in the five-pointed star where it is inside of at least four of its five lines.
    inner = 0.36  # distance of the lines from the centre; the pentagram's own is 0.309
    lines = np.arange(5) * (2 * np.pi / 5)
    count = np.zeros(x.shape, np.uint8)
    for angle in lines:
        count += x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)) < inner
    return (count >= 4) & (x * x + y * y < 1.0)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half = np.float32(np.sqrt(3) / 2)
    return (x > -0.5) & (x * 0.5 + y * half < 0.5) & (x * 0.5 - y * half < 0.5)


_OUTLINES = {
    "arrow": _arrow,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
