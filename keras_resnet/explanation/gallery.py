"""One HTML page that shows within a minute what a network looks at.

For each class: the most confident right answers, the most confident mistakes and the least certain answers, each with
its heat map for the predicted and the true class; a mean map of each class; and the table of scores, so that a reader
knows how far the maps can be trusted. The page holds its pictures and needs no network.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resnet.artifact import Artifact
from keras_resnet.data.feeding import evaluation_batches, examples_at, normalize
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.data.splits import Split
from keras_resnet.errors import UserError
from keras_resnet.explanation.cards import Example, as_colours, colour_bar, describe_examples, draw_card, picture
from keras_resnet.explanation.classifier import FEATURES, Classifier, prepare
from keras_resnet.explanation.inputs import split_masks, spread
from keras_resnet.explanation.methods import METHODS, explain, get_method
from keras_resnet.explanation.overlay import blend
from keras_resnet.explanation.scoring import LOWER_IS_BETTER, SCORES, MethodScore, score_methods
from keras_resnet.pages import render_page
from keras_resnet.progress import ProgressBar

SCORED_METHODS = ("gradcam", "layercam", "eigencam")
# Score → its heading, and what it is.
SCORE_TITLES = {
    "deletion": ("deletion", "class probability as the most relevant pixels go"),
    "insertion": ("insertion", "class probability as the most relevant pixels come"),
    "road": ("ROAD", "half of what replacing the least relevant pixels leaves more than replacing the most relevant"),
    "average_drop": ("average drop", "confidence lost when only the map's part is seen"),
    "increase": ("increase", "share of images whose confidence grows then"),
    "sanity": ("randomised", "similarity to the map of a network with shuffled weights"),
    "pointing": ("pointing", "highest point on the object"),
    "energy": ("energy inside", "share of the map on the object"),
    "iou": ("best IoU", "overlap with the object at the best threshold"),
    "mark_energy": ("energy on mark", "share of the map on the planted mark"),
}
GROUPS = {
    "right": "Most confident right answers",
    "wrong": "Most confident mistakes",
    "unsure": "Least certain",
}


def make_gallery(
    artifact: Artifact,
    split: Split,
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
        split: The examples, see `keras_resnet.data.splits`.
        title: What the page is about.
        method: The method of the maps.
        layer: The layer to draw on.
        per_group: Examples in each group of a class.
        mean_of: Examples of a class that its mean map is made of, at most.
        scored: Examples that the scores are measured on, at most.
        seed: Number that the scores' noise depends on.
        show_progress: Whether to draw a progress bar for each step of the work on standard error.
        **options: For `explain`.

    Returns:
        The HTML text.

    Raises:
        UserError: The split is empty or has other classes than the model.
    """
    progress = ProgressBar(show=show_progress)
    shown = get_method(method)
    classifier = prepare(artifact.model)
    classifier.layer_name(layer)
    preprocessing = artifact.preprocessing
    probabilities, labels = _predict(classifier, split, preprocessing, progress)
    groups = choose_examples(probabilities, labels, per_group)
    means = {number: np.flatnonzero(labels == number)[:mean_of] for number in groups}
    drawn = sorted(
        {example.position for group in groups.values() for part in group.values() for example in part}
        | {int(position) for positions in means.values() for position in positions}
    )
    scored_positions = spread(len(labels), scored)
    pixels, _ = examples_at(split, preprocessing, [*drawn, *scored_positions])
    inputs = normalize(pixels, preprocessing)
    to_draw, to_score = np.split(inputs, [len(drawn)])
    progress.begin("draw examples", 2 * len(drawn), "maps")
    where = {position: index for index, position in enumerate(drawn)}

    def draw(targets):
        maps = explain(artifact.model, to_draw, targets, method, layer, seed=seed, **options)
        progress.step(len(maps))
        return maps

    for_predicted, for_true = draw(probabilities[drawn].argmax(axis=1)), draw(labels[drawn])
    progress.end()

    masks, marks = split_masks(split, scored_positions, artifact)
    methods = dict.fromkeys([method, *(name for name in SCORED_METHODS if METHODS[name].is_usable)])
    scores = score_methods(
        artifact.model,
        to_score,
        labels[scored_positions].astype(np.int32),
        [name for name in methods],
        layer=layer,
        masks=masks,
        mark_masks=marks,
        seed=seed,
        show_progress=show_progress,
        **options,
    )

    correct = probabilities.argmax(axis=1) == labels
    size = f"{preprocessing.height}×{preprocessing.width}"

    def card(example: Example) -> dict[str, Any]:
        row = where[example.position]
        return draw_card(artifact.labels, example, pixels[row], for_predicted[row], for_true[row])

    return render_page(
        "gallery.html.jinja",
        title=title,
        summary=f"{len(labels)} examples at {size}, {correct.mean():.2%} right. Heat maps: {shown.title}"
        + (f" on {layer}." if shown.on_layer else "."),
        bar=colour_bar(),
        scores=_score_table(scores, min(scored, len(labels))),
        classes=[
            {
                "number": number,
                "label": artifact.labels[number],
                "summary": f"{_counted(int((labels == number).sum()), 'example')}, "
                f"{correct[labels == number].mean():.1%} right",
                "mean": _mean_map(artifact.labels[number], [where[int(i)] for i in means[number]], pixels, for_true),
                "groups": [(GROUPS[name], [card(example) for example in part]) for name, part in group.items()],
            }
            for number, group in groups.items()
        ],
    )


def _predict(
    classifier: Classifier, split: Split, preprocessing: Preprocessing, progress: ProgressBar
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of every example."""
    progress.begin("predict every example", len(split))
    probabilities, labels = [], []
    for inputs, batch_labels in evaluation_batches(split, preprocessing, batch_size=64).as_numpy_iterator():
        probabilities.append(classifier.probabilities(inputs))
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
    return probabilities, labels


def choose_examples(
    probabilities: np.ndarray, labels: np.ndarray, per_group: int
) -> dict[int, dict[str, list[Example]]]:
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
            name: describe_examples(probabilities, labels, part)
            for name, part in (("right", right), ("wrong", wrong), ("unsure", unsure))
        }
    return chosen


def _mean_map(label: str, rows: Sequence[int], pixels: np.ndarray, for_true: np.ndarray) -> dict[str, Any]:
    heat = for_true[rows].mean(axis=0)
    heat = heat / heat.max() if heat.max() > 0 else heat
    drawn = picture(blend(as_colours(pixels[rows].mean(axis=0)), heat), f"mean map of {label}")
    return {"picture": drawn, "count": _counted(len(rows), "image")}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _score_table(scores: list[MethodScore], count: int) -> dict[str, Any]:
    columns = [name for name in SCORES if name in scores[0].per_image and name in SCORE_TITLES]
    best = {name: (min if name in LOWER_IS_BETTER else max)(score.mean(name) for score in scores) for name in columns}
    return {
        "count": count,
        "columns": [
            {
                "heading": f"{SCORE_TITLES[name][0]} {'↓' if name in LOWER_IS_BETTER else '↑'}",
                "explanation": SCORE_TITLES[name][1],
            }
            for name in columns
        ],
        "rows": [
            {
                "title": get_method(score.method).title,
                "is_baseline": get_method(score.method).source == "baseline",
                "cells": [
                    {
                        "mean": f"{score.mean(name):.3f}",
                        "error": f"{score.standard_error(name):.3f}",
                        "is_best": score.mean(name) == best[name],
                    }
                    for name in columns
                ],
                "time": f"{score.seconds_per_image * 1000:.1f} ms",
            }
            for score in scores
        ],
    }
