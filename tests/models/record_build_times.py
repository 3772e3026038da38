"""Writes results/build_times.csv: how long every row of the table takes to build, a layer, beside keras.applications.

Run from the project's root: `PYTHONPATH=. python tests/models/record_build_times.py [--largest MILLIONS]`. Takes about
a quarter of an hour; run again it goes on where it stopped. keras.applications' ResNet50 is built before each row, and
both count by processor time, so that what else the machine does falls on both. Drawing the weights is part of it, and
most of it for wide networks: the column `weightless_ratio` is without.
"""

import argparse
import gc
import time
from pathlib import Path

import keras

from keras_resnet import provenance
from keras_resnet.models.registry import REGISTRY
from keras_resnet.models.resnet import build_model
from keras_resnet.models.weightless import build_weightless
from keras_resnet.storage import append_row, read_rows

COMMAND = "PYTHONPATH=. python tests/models/record_build_times.py"


def seconds_a_layer(build) -> float:
    """Processor seconds of a build, a layer."""
    keras.backend.clear_session()
    gc.collect()
    began = time.process_time()
    model = build()
    return (time.process_time() - began) / len(model.layers)


def reference() -> keras.Model:
    """keras.applications' ResNet50."""
    return keras.applications.ResNet50(weights=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=100.0, help="most million parameters of a row")
    arguments = parser.parse_args()
    output = Path(__file__).resolve().parents[2] / "results" / "build_times.csv"
    done = {row["name"] for row in read_rows(output)}
    seconds_a_layer(reference)  # the first build loads what all need
    for name in REGISTRY:
        if name in done:
            continue
        parameters = build_weightless(name).count_params()
        if parameters > 1e6 * arguments.largest:
            continue
        base = seconds_a_layer(reference)
        own = seconds_a_layer(lambda name=name: build_model(name))
        weightless = seconds_a_layer(lambda name=name: build_weightless(name))
        row = {
            "name": name,
            "parameters": parameters,
            "milliseconds_a_layer": f"{1e3 * own:.2f}",
            "reference_milliseconds_a_layer": f"{1e3 * base:.2f}",
            "ratio": f"{own / base:.2f}",
            "weightless_ratio": f"{weightless / base:.2f}",
        }
        append_row(output, {**row, "command": COMMAND, **provenance.result_row()})
        print(name, row["ratio"], row["weightless_ratio"], flush=True)


if __name__ == "__main__":
    main()
