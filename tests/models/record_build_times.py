"""Writes results/build_times.csv: how long every row of the table takes to build, a layer, beside keras.applications.

Run from the project's root: `PYTHONPATH=. python tests/models/record_build_times.py`. Takes about a quarter of an hour,
from the shallowest network to the deepest; run again it goes on where it stopped. A row and keras.applications'
ResNet50 are built in turn and count by processor time, so that what else the machine does falls on both; the medians of
three are stored. Both are built without values of their variables: drawing those takes longer the wider a network is,
whoever builds it.
"""

import gc
import statistics
import time
from pathlib import Path

import keras

from keras_resnet import provenance
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.resnet import build_model
from keras_resnet.models.weightless import without_values
from keras_resnet.storage import append_row, read_rows

COMMAND = "PYTHONPATH=. python tests/models/record_build_times.py"
ROUNDS = 3


def build_time(build) -> tuple[float, int]:
    """Processor time of a build in milliseconds a layer, and the number of layers."""
    keras.backend.clear_session()
    gc.collect()
    began = time.process_time()
    model = without_values(build)
    layers = len(model.layers)
    return 1e3 * (time.process_time() - began) / layers, layers


def reference() -> keras.Model:
    """keras.applications' ResNet50."""
    return keras.applications.ResNet50(weights=None)


def compare(name: str) -> dict:
    """Returns a row's figures."""
    bases, owns = [], []
    for _ in range(ROUNDS):
        bases.append(build_time(reference)[0])
        own, layers = build_time(lambda: build_model(name))
        owns.append(own)
    base, own = statistics.median(bases), statistics.median(owns)
    return {
        "name": name,
        "layers": layers,
        "milliseconds_a_layer": f"{own:.2f}",
        "reference_milliseconds_a_layer": f"{base:.2f}",
        "ratio": f"{own / base:.2f}",
    }


def main() -> None:
    output = Path(__file__).resolve().parents[2] / "results" / "build_times.csv"
    done = {row["name"] for row in read_rows(output)}
    build_time(reference)  # the first build loads what all need
    for name in sorted(REGISTRY, key=lambda name: sum(REGISTRY[name].depths)):
        if name not in done:
            row = compare(name)
            append_row(output, {**row, "command": COMMAND, **provenance.result_row()})
            print(name, row["ratio"], flush=True)


if __name__ == "__main__":
    main()
