"""Heat maps of image files, written as pictures: what `explain.py` does with files, for a program of one's own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_resnet.artifact import Artifact
from keras_resnet.choices import MAXIMIZE
from keras_resnet.data.feeding import preprocess
from keras_resnet.explanation.classifier import FEATURES, prepare
from keras_resnet.explanation.inputs import ReadImage, UnreadableImage, place_maps, read_batches
from keras_resnet.explanation.methods import explain, get_method, is_constant, maximize_activation
from keras_resnet.explanation.overlay import draw_overlay, draw_sheet
from keras_resnet.pages import png
from keras_resnet.progress import ProgressBar
from keras_resnet.storage import atomic_file

SHEET = "grid.png"


@dataclass(frozen=True)
class Overlay:
    """A picture that was written.

    Attributes:
        file: The image.
        label: The class that its map explains.
        probability: The class's probability, 0..1.
        method: The method.
        is_constant: Whether nothing stands out in the map.
        overlay: The picture.
        array: The map as .npy, float32 [H, W], 0..1; None where it was not asked for.
    """

    file: Path
    label: str
    probability: float
    method: str
    is_constant: bool
    overlay: Path
    array: Path | None = None

    @property
    def caption(self) -> str:
        """Class and probability, as people read them."""
        return f"{self.label} {self.probability:.1%}"


def explain_files(
    artifact: Artifact,
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    methods: Sequence[str] = ("gradcam",),
    target: int | str | None = None,
    layers: Sequence[str] = (FEATURES,),
    batch_size: int = 32,
    with_sheet: bool = False,
    with_arrays: bool = False,
    progress: ProgressBar | None = None,
    **options: Any,
) -> Iterator[Overlay | UnreadableImage]:
    """Draws an overlay for every image, target and method.

    Args:
        artifact: A network, from `load_network` or `artifact_of`.
        paths: Image files and folders of them.
        folder: Where pictures are written.
        methods: Names of `METHODS`.
        target: None for the predicted class, "top3" for the three most probable ones, or a class number.
        layers: Layers to draw on.
        batch_size: Images at a time.
        with_sheet: Whether methods × images are drawn on one sheet, `SHEET`, as well.
        with_arrays: Whether maps are written as .npy, too.
        progress: Shows a bar for each method and batch.
        **options: For `explain`.

    Yields:
        What was written, or could not be read, as it happens.

    Raises:
        UserError: An unknown name, or a file cannot be written.
    """
    folder = Path(folder)
    taken: set[str] = set()
    progress = progress or ProgressBar(show=False)
    sheet: list[tuple[np.ndarray, list[np.ndarray], str]] = []
    for batch in read_batches(paths, artifact, batch_size):
        yield from (image for image in batch if isinstance(image, UnreadableImage))
        images = [image for image in batch if isinstance(image, ReadImage)]
        if not images:
            continue
        inputs = np.stack([image.network_input for image in images])
        probabilities = prepare(artifact.model).probabilities(inputs)
        for targets in _targets(probabilities, target):
            maps = {}
            for name in methods:
                progress.begin(get_method(name).title, None, "steps")
                maps[name] = explain(
                    artifact.model,
                    inputs,
                    targets,
                    name,
                    list(layers),
                    batch_size=batch_size,
                    progress=progress.reach,
                    **options,
                )
                progress.clear()
            for index, image in enumerate(images):
                placed = {
                    name: place_maps(drawn[index : index + 1], artifact.preprocessing, image.pixels.shape[:2])[0]
                    for name, drawn in maps.items()
                }
                label, probability = artifact.labels[targets[index]], float(probabilities[index, targets[index]])
                for name, heat in placed.items():
                    file = folder / overlay_name(image.file, label, name, taken)
                    array = file.with_suffix(".npy") if with_arrays else None
                    overlay = Overlay(
                        image.file, label, probability, name, bool(is_constant(heat[None])[0]), file, array
                    )
                    _write(overlay, image.pixels, heat, layers)
                    yield overlay
                if with_sheet:
                    sheet.append((image.pixels, list(placed.values()), f"{image.file.name}: {overlay.caption}"))
    if sheet:
        pictures, heats, captions = zip(*sheet, strict=True)
        titles = [get_method(name).title for name in methods]
        with atomic_file(folder / SHEET) as temporary:
            temporary.write_bytes(png(draw_sheet(pictures, heats, rows=captions, columns=titles)))


def draw_class(
    artifact: Artifact,
    target: int,
    folder: str | Path,
    *,
    steps: int = 100,
    seed: int = 0,
    progress: ProgressBar | None = None,
) -> Overlay:
    """Draws an image that excites a class, by activation maximisation.

    Args:
        artifact: A network.
        target: The class.
        folder: Where the picture is written.
        steps: Steps of drawing.
        seed: What the first noise depends on.
        progress: Shows a bar.

    Returns:
        The picture and the probability that the network gives it.
    """
    progress = progress or ProgressBar(show=False)
    progress.begin("activation maximisation", None, "steps")
    pixels = maximize_activation(
        artifact.model, target, preprocessing=artifact.preprocessing, seed=seed, progress=progress.reach, steps=steps
    )
    progress.clear()
    label, method = artifact.labels[target], MAXIMIZE
    file = Path(folder) / overlay_name(Path("class"), label, method, set())
    with atomic_file(file) as temporary:
        temporary.write_bytes(png(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)))
    inputs = preprocess(pixels[np.newaxis], artifact.preprocessing)
    probability = float(prepare(artifact.model).probabilities(inputs)[0, target])
    return Overlay(file, label, probability, method, False, file)


def overlay_name(path: Path, label: str, method: str, taken: set[str]) -> str:
    """Names the picture of an image, class and method.

    Args:
        path: The image.
        label: The class.
        method: The method.
        taken: Names that are given already, for photographs of two folders may share theirs; the new one is added.

    Returns:
        A file name of at most 255 bytes that is not among `taken`.
    """
    clean = _shortened("".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in label), 40)
    stem = _shortened(path.stem, 100)  # file systems allow 255 bytes, and a file has a longer name while it is written
    name, number = f"{stem}-{clean}-{method}.png", 2
    while name in taken:
        name, number = f"{stem}_{number}-{clean}-{method}.png", number + 1
    taken.add(name)
    return name


def _targets(probabilities: np.ndarray, target: int | str | None) -> Iterator[np.ndarray]:
    """int32 [images]: the class to explain of each image, once for each of the classes that are asked for."""
    if isinstance(target, int):
        yield np.full(len(probabilities), target, np.int32)
        return
    ranked = np.argsort(-probabilities, axis=1, kind="stable").astype(np.int32)
    for place in range(min(3 if target == "top3" else 1, ranked.shape[1])):
        yield ranked[:, place]


def _write(overlay: Overlay, pixels: np.ndarray, heat: np.ndarray, layers: Sequence[str]) -> None:
    method = get_method(overlay.method)
    on = f" on {', '.join(layers)}" if method.on_layer else ""
    picture = draw_overlay(pixels, heat, title=overlay.caption, subtitle=f"{method.title}{on}")
    with atomic_file(overlay.overlay) as temporary:
        temporary.write_bytes(png(picture))
    if overlay.array is not None:
        with atomic_file(overlay.array) as temporary:
            np.save(temporary, heat)


def _shortened(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8, without letters that UTF-8 lacks."""
    return text.encode("utf-8", "ignore")[:limit].decode("utf-8", "ignore")
