"""The README of an exported folder: the ledger for people."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.export.ledger import LedgerRow, table


def model_card(
    name: str,
    names: Sequence[str],
    preprocessing: Preprocessing,
    rows: Sequence[LedgerRow],
    rejected: Sequence[str],
    described: Mapping[str, Any],
) -> str:
    """Returns the README of an exported folder.

    Args:
        name: The network's.
        names: Its classes'.
        preprocessing: How an image becomes its input.
        rows: The ledger.
        rejected: Sentences about the formats that were not kept.
        described: The contents of parity.json.
    """
    size = f"{preprocessing.height}×{preprocessing.width}×{preprocessing.channels}"
    shown = ", ".join(map(_escaped, names[:20])) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    lines = [
        f"# {_escaped(name)}",
        "",
        f"An image classifier of {len(names)} classes for images of {size} pixels: {shown}.",
        "",
        "Every artifact takes pixels from 0 to 255 in RGB; the normalisation is inside. `preprocessing.json` says how "
        "an image is brought to size, `labels.txt` names the outputs in order.",
        "",
        "## How each artifact compares with its source",
        "",
        table(rows),
        "",
        "Latency is of one call with one batch, in milliseconds; peak memory is that of the whole process, the runtime "
        "included. Heat map: mean correlation with gradient Grad-CAM on the source.",
    ]
    if rejected:
        lines += ["", "Not kept, because beyond their limits:", *[f"- {sentence}" for sentence in rejected]]
    lines += [
        "",
        "## Provenance",
        "",
        f"{described['hardware']}; TensorFlow {described['tensorflow']}, Keras {described['keras']}, Python "
        f"{described['python']}; {described['date']}. Preprocessing {preprocessing.fingerprint()[:12]}.",
        "",
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text as Markdown shows it: nothing in a class name is formatting or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", text)
