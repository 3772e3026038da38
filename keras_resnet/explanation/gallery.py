"""One HTML page that shows within a minute what a network looks at.

For each class: the most confident right answers, the most confident mistakes and the least certain answers, each with
its heat map for the predicted and the true class; a mean map of each class; and the table of scores, so that a reader
knows how far the maps can be trusted. The page holds its pictures inside and asks no network for anything.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_resnet.artifact import Artifact
from keras_resnet.errors import UserError
from keras_resnet.explanation.classifier import FEATURES, prepare
from keras_resnet.explanation.inputs import read_split, split_masks, spread, take_examples
from keras_resnet.explanation.methods import explain, get_method
from keras_resnet.explanation.overlay import blend, colorize, fit, png
from keras_resnet.explanation.scoring import LOWER_IS_BETTER, SCORES, MethodScore, score_methods
from keras_resnet.progress import Progress

CELL = 120
SCORED_METHODS = ("gradcam", "layercam", "eigencam")
HEADINGS = {
    "deletion": "deletion",
    "insertion": "insertion",
    "road": "ROAD",
    "average_drop": "average drop",
    "increase": "increase",
    "sanity": "randomised",
    "pointing": "pointing",
    "energy": "energy inside",
    "iou": "best IoU",
    "mark_energy": "energy on mark",
}
EXPLAINED = {
    "deletion": "class probability as the most relevant pixels go",
    "insertion": "class probability as the most relevant pixels come",
    "road": "half of what replacing the least relevant pixels leaves more than replacing the most relevant",
    "average_drop": "confidence lost when only the map's part is seen",
    "increase": "share of images whose confidence grows then",
    "sanity": "similarity to the map of a network with shuffled weights",
    "pointing": "highest point on the object",
    "energy": "share of the map on the object",
    "iou": "overlap with the object at the best threshold",
    "mark_energy": "share of the map on the planted mark",
}


@dataclass(frozen=True)
class Shown:
    """One example on the page."""

    position: int
    true: int
    predicted: int
    probability: float
    true_probability: float


def make_gallery(
    artifact: Artifact,
    split,
    *,
    title: str,
    method: str = "gradcam",
    layer: str = FEATURES,
    per_group: int = 4,
    mean_of: int = 24,
    scored: int = 64,
    seed: int = 0,
    show_progress: bool = False,
    **options,
) -> str:
    """Makes the page.

    Args:
        artifact: The model.
        split: The examples, see `keras_resnet.data.dataset`.
        title: What the page is about.
        method: The method of the maps.
        layer: The layer to draw on.
        per_group: Examples in each group of a class.
        mean_of: Examples of a class that its mean map is made of, at most.
        scored: Examples that the scores are measured on, at most.
        seed: Number that the scores' noise hangs on.
        show_progress: Whether to draw a progress bar for each step of the work on standard error.
        **options: For `explain`.

    Returns:
        The HTML text.

    Raises:
        UserError: The split is empty or has other classes than the model.
    """
    progress = Progress(show=show_progress)
    row = get_method(method)
    classifier = prepare(artifact.model)
    classifier.layer_name(layer)
    preprocessing = artifact.preprocessing
    progress.begin("predict every example", len(split))
    probabilities, labels = [], []
    for images, batch_labels in read_split(split, artifact):
        probabilities.append(classifier.probabilities(_inputs(images, artifact)))
        labels.append(batch_labels)
        progress.step(len(batch_labels))
    progress.end()
    if not labels:
        raise UserError("A gallery needs examples; the split is empty.")
    probabilities, labels = np.concatenate(probabilities), np.concatenate(labels)
    if labels.max() >= classifier.classes:
        raise UserError(
            f"The data set has at least {labels.max() + 1} classes, the model {classifier.classes}. Give the data set "
            "that the model was trained on."
        )

    groups = choose_examples(probabilities, labels, per_group)
    means = {number: np.flatnonzero(labels == number)[:mean_of] for number in groups}
    needed = sorted(
        {shown.position for group in groups.values() for part in group.values() for shown in part}
        | {int(position) for positions in means.values() for position in positions}
    )
    progress.begin("draw examples", 2 * len(needed), "maps")
    pixels, _ = take_examples(split, artifact, needed)
    where = {position: index for index, position in enumerate(needed)}
    inputs = _inputs(pixels, artifact)

    def draw(targets):
        maps = explain(artifact.model, inputs, targets, method, layer, seed=seed, **options)
        progress.step(len(maps))
        return maps

    for_predicted, for_true = draw(probabilities[needed].argmax(axis=1)), draw(labels[needed])
    progress.end()

    chosen = spread(len(labels), scored)
    score_pixels, _ = take_examples(split, artifact, chosen)
    masks, marks = split_masks(split, chosen, artifact)
    methods = dict.fromkeys([method, *(name for name in SCORED_METHODS if name != method)])
    scores = score_methods(
        artifact.model,
        _inputs(score_pixels, artifact),
        labels[chosen].astype(np.int32),
        [name for name in methods],
        layer=layer,
        masks=masks,
        mark_masks=marks,
        seed=seed,
        show_progress=show_progress,
        **options,
    )

    correct = probabilities.argmax(axis=1) == labels
    pages = []
    for number, group in groups.items():
        ours = labels == number
        mean_rows = [where[int(position)] for position in means[number]]
        pages.append(
            _class_section(
                artifact.labels,
                number,
                f"{int(ours.sum())} examples, {correct[ours].mean():.1%} right",
                (pixels[mean_rows].mean(axis=0), for_true[mean_rows].mean(axis=0), len(mean_rows)),
                {
                    name: [(shown, pixels[where[shown.position]], for_predicted[where[shown.position]],
                            for_true[where[shown.position]]) for shown in part]
                    for name, part in group.items()
                },
            )
        )  # fmt: skip
    contents = "".join(f'<a href="#class-{number}">{html.escape(artifact.labels[number])}</a>' for number in groups)
    size = f"{preprocessing.height}×{preprocessing.width}"
    return _PAGE.format(
        title=html.escape(title),
        summary=html.escape(
            f"{len(labels)} examples at {size}, {correct.mean():.2%} right. Heat maps: {row.title}"
            + (f" on {layer}." if row.on_layer else ".")
        ),
        bar=_picture(np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[None], 14, axis=0), 256, "colour bar"),
        contents=contents,
        scores=_score_table(scores, min(scored, len(labels))),
        classes="".join(pages),
    )


def choose_examples(probabilities: np.ndarray, labels: np.ndarray, per_group: int) -> dict[int, dict[str, list[Shown]]]:
    """Chooses what the page shows of each class.

    Args:
        probabilities: float [N, classes].
        labels: int [N], the true classes.
        per_group: Examples in a group at most.

    Returns:
        Class → {"right", "wrong", "unsure"} → examples: the most confident right answers, the most confident mistakes
        on images of the class, and those whose two most probable classes are nearest. An example is shown once: an
        unsure one that is among the others is not repeated.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    ordered = np.sort(probabilities, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    chosen = {}
    for number in np.unique(labels):
        ours = np.flatnonzero(labels == number)
        right, wrong = ours[predicted[ours] == number], ours[predicted[ours] != number]
        right = right[np.argsort(-confidence[right], kind="stable")][:per_group]
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:per_group]
        unsure = ours[np.argsort(margin[ours], kind="stable")]
        unsure = [index for index in unsure if index not in right and index not in wrong][:per_group]
        chosen[int(number)] = {
            name: [
                Shown(
                    int(i), int(labels[i]), int(predicted[i]), float(confidence[i]), float(probabilities[i, labels[i]])
                )
                for i in part
            ]
            for name, part in (("right", right), ("wrong", wrong), ("unsure", unsure))
        }
    return chosen


def _inputs(pixels: np.ndarray, artifact: Artifact) -> np.ndarray:
    from keras_resnet.data.transforms import normalize

    return normalize(pixels, artifact.preprocessing).numpy()


def _class_section(names: Sequence[str], number: int, summary: str, mean, groups) -> str:
    mean_pixels, mean_map, count = mean
    headings = {
        "right": "Most confident right answers",
        "wrong": "Most confident mistakes",
        "unsure": "Least certain",
    }
    parts = []
    for name, cards in groups.items():
        shown = "".join(_card(names, *card) for card in cards) or '<p class="none">none</p>'
        parts.append(f"<h3>{headings[name]}</h3><div class=cards>{shown}</div>")
    label = html.escape(names[number])
    mean_shown = mean_map / mean_map.max() if mean_map.max() > 0 else mean_map
    mean_card = (
        f"<figure class=mean>{_picture(blend(_grey(mean_pixels), mean_shown), CELL, f'mean map of {names[number]}')}"
        f"<figcaption>mean map of {count} images, for {label}</figcaption></figure>"
    )
    return (
        f"<section id=class-{number}><header>{mean_card}"
        f"<div><h2>{label}</h2><p>{html.escape(summary)}</p></div></header>"
        f"{''.join(parts)}</section>"
    )


def _card(names: Sequence[str], shown: Shown, pixels, for_predicted, for_true) -> str:
    predicted, true = html.escape(names[shown.predicted]), html.escape(names[shown.true])
    figures = [
        (_grey(pixels), f"image {shown.position}", f"#{shown.position}"),
        (
            blend(_grey(pixels), for_predicted),
            f"map for {names[shown.predicted]}",
            _named(predicted, shown.probability, for_predicted),
        ),
    ]
    if shown.predicted != shown.true:
        figures.append(
            (
                blend(_grey(pixels), for_true),
                f"map for {names[shown.true]}",
                _named(true, shown.true_probability, for_true),
            )
        )
    kind = "right" if shown.predicted == shown.true else "wrong"
    inside = "".join(
        f"<figure>{_picture(picture, CELL, alternative)}<figcaption>{caption}</figcaption></figure>"
        for picture, alternative, caption in figures
    )
    return f'<div class="card {kind}">{inside}</div>'


def _named(name: str, probability: float, heat: np.ndarray) -> str:
    constant = "<br>constant map" if heat.max() <= 0 else ""
    return f"{name} {probability:.1%}{constant}"


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Pixels as a picture takes them: uint8, three channels."""
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _picture(pixels: np.ndarray, side: int, alternative: str) -> str:
    if pixels.ndim == 2:
        pixels = colorize(pixels)
    picture = fit(pixels, side)
    data = base64.b64encode(png(picture)).decode()
    return (
        f'<img src="data:image/png;base64,{data}" width="{picture.width}" height="{picture.height}" '
        f'alt="{html.escape(alternative)}">'
    )


def _score_table(scores: list[MethodScore], count: int) -> str:
    columns = [name for name in SCORES if name in scores[0].per_image and name in HEADINGS]
    best = {name: (min if name in LOWER_IS_BETTER else max)(score.mean(name) for score in scores) for name in columns}
    head = "".join(
        f'<th title="{html.escape(EXPLAINED[name])}">{HEADINGS[name]} {"↓" if name in LOWER_IS_BETTER else "↑"}</th>'
        for name in columns
    )
    rows = []
    for score in scores:
        method = get_method(score.method)
        cells = "".join(
            f"<td{' class=best' if score.mean(name) == best[name] else ''}>{score.mean(name):.3f}"
            f"<small> ± {score.standard_error(name):.3f}</small></td>"
            for name in columns
        )
        kind = " class=baseline" if method.source == "baseline" else ""
        rows.append(f"<tr{kind}><th>{method.title}</th>{cells}<td>{score.seconds_per_image * 1000:.1f} ms</td></tr>")
    return (
        f"<table><thead><tr><th>method</th>{head}<th>time an image</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        f"<p class=note>Mean ± standard error over {count} images, for the true class. ↑ higher is better, ↓ lower is "
        "better; the best of each column is bold. The two lowest rows know nothing of image or network: a method that "
        "is no better than they are explains nothing.</p>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
:root {{ --ink: #18181c; --faint: #6e6e76; --line: #e2e2e8; --right: #2c7a4b; --wrong: #b3372f; }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: #fafafb; margin: 0 auto;
  max-width: 1300px; padding: 24px; }}
h1 {{ font-size: 24px; margin: 0 0 4px; }}
h2 {{ font-size: 20px; margin: 0; }}
h3 {{ font-size: 14px; margin: 18px 0 6px; color: var(--faint); font-weight: 600; }}
p {{ margin: 4px 0; }}
nav {{ margin: 14px 0; display: flex; flex-wrap: wrap; gap: 6px; }}
nav a {{ color: var(--ink); text-decoration: none; background: #fff; border: 1px solid var(--line); border-radius: 14px;
  padding: 2px 12px; }}
section {{ background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; margin: 18px 0; }}
section header {{ display: flex; gap: 18px; align-items: center; }}
.cards {{ display: flex; flex-wrap: wrap; gap: 10px; }}
.card {{ display: flex; gap: 6px; padding: 8px; border: 1px solid var(--line); border-top: 3px solid var(--right);
  border-radius: 6px; }}
.card.wrong {{ border-top-color: var(--wrong); }}
figure {{ margin: 0; }}
figcaption {{ font-size: 12px; color: var(--faint); max-width: 128px; overflow-wrap: anywhere; }}
.mean figcaption {{ max-width: 160px; }}
img {{ display: block; border-radius: 3px; }}
.bar {{ display: flex; gap: 8px; align-items: center; font-size: 12px; color: var(--faint); margin: 8px 0; }}
.none, .note {{ color: var(--faint); font-size: 13px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 12px; white-space: nowrap; }}
th, td {{ text-align: right; padding: 4px 5px; border-bottom: 1px solid var(--line); font-weight: 400; }}
thead th {{ color: var(--faint); }}
tr > th:first-child {{ text-align: left; }}
td.best {{ font-weight: 700; }}
td small {{ color: var(--faint); font-weight: 400; }}
tr.baseline {{ color: var(--faint); background: #f4f4f7; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<div class="bar">nothing {bar} most of the evidence for the class in the caption</div>
<nav>{contents}<a href="#scores">scores</a></nav>
<section id="scores"><h2>How far the maps can be trusted</h2><div class="scroll">{scores}</div></section>
{classes}
</body></html>
"""
