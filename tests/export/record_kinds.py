"""Writes results/parity_kinds.csv: a trained network of each kind of layer in every format, beside its source.

Run from the project's root: `PYTHONPATH=. python tests/export/record_kinds.py`. Each network has one or two blocks a
stage and trains for five epochs on 5,085 images of CIFAR-10, which takes some minutes in all: on untrained networks
agreement means nothing. Parity is measured on its 1,017 test images, and the heat map is that of the most probable
class.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "models"))

from test_kinds import KINDS, SMALL  # noqa: E402

from keras_resnet import provenance  # noqa: E402
from keras_resnet.artifact import artifact_of  # noqa: E402
from keras_resnet.data.preprocessing import Preprocessing  # noqa: E402
from keras_resnet.data.transforms import normalize  # noqa: E402
from keras_resnet.export.exporter import export  # noqa: E402
from keras_resnet.export.formats import ExportSettings  # noqa: E402
from keras_resnet.models.resnet import build_model  # noqa: E402
from keras_resnet.storage import append_row, read_rows  # noqa: E402

FORMATS = ("saved_model", "saved_model_bfloat16", "float32", "float16", "dynamic", "int8", "int16x8")
COMMAND = "PYTHONPATH=. python tests/export/record_kinds.py"


def main() -> None:
    output = ROOT / "results" / "parity_kinds.csv"
    done = {row["kind"] for row in read_rows(output)}
    shared = next(folder / "shared" for folder in ROOT.parents if (folder / "shared" / "weights").is_dir())
    data = np.load(shared / "data" / "cifar10_subset.npz")
    train, test = ((data[f"x_{part}"], data[f"y_{part}"].ravel().astype(np.int32)) for part in ("train", "test"))
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    preprocessing = Preprocessing(32, 32, 3, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262), labels=labels)
    for kind, fields in KINDS.items():
        if kind in done:
            continue
        keras.utils.set_random_seed(0)
        model = build_model(SMALL.replace(**fields), num_classes=10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, 0.9, nesterov=True), loss, metrics=["accuracy"])
        model.fit(np.asarray(normalize(train[0], preprocessing)), train[1], batch_size=64, epochs=5, verbose=2)
        with tempfile.TemporaryDirectory() as folder:
            report = export(
                artifact_of(model, preprocessing),
                Path(folder) / "export",
                formats=FORMATS,
                calibration=(train[0][:200], train[1][:200]),
                parity=test,
                settings=ExportSettings(heatmap="top"),
                allow_drop=True,
            )
        for row in report.rows:
            operators = "" if row.operators is None else sum(row.operators.values())
            entry = {
                "kind": kind,
                "parameters": model.count_params(),
                "format": row.name,
                "images": row.images,
                "top1": f"{row.top1:.4f}",
                "agreement": "" if row.agreement is None else f"{row.agreement:.4f}",
                "largest_difference": "" if row.largest_difference is None else f"{row.largest_difference:.1e}",
                "heatmap_correlation": "" if row.heatmap_correlation is None else f"{row.heatmap_correlation:.4f}",
                "operators": operators,
                "within_limits": "" if row.name == "source" else "no" if row.beyond else "yes",
            }
            append_row(output, {**entry, "command": COMMAND, **provenance.result_row()})
        print(report.table(), flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
