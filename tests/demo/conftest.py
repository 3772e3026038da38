import contextlib
import dataclasses
import io
import os
import tarfile
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnet import provenance
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.demo.runtime import open_runtime
from keras_resnet.demo.server import open_server
from keras_resnet.errors import UserError
from keras_resnet.export.formats import FORMATS
from keras_resnet.export.ledger import LedgerRow
from keras_resnet.export.serving import serving_network
from keras_resnet.export.tflite import convert
from keras_resnet.export.tflite_metadata import add_metadata
from keras_resnet.models.resnet import build_model
from keras_resnet.storage import write_json

SHARED = Path(__file__).resolve().parents[3] / "shared"
# What HTML and JSON must not take for their own, among names that need no care.
LABELS = ("<b>bold</b> & co", "</script>", *(f"class {number}" for number in range(2, 12)))


@contextlib.contextmanager
def serving(directory):
    """The address of a folder that a server of the project serves."""
    server = open_server(directory, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield "http://{}:{}/".format(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def served():
    return serving


@pytest.fixture(scope="session")
def runtime():
    """LiteRT for the web, fetched by npm where it has not been yet."""
    try:
        return open_runtime()
    except UserError as error:
        # A user's machine may do without; the check has npm, and must not lose these tests unseen.
        miss = pytest.fail if os.environ.get("CI") else pytest.skip
        miss(f"Tests of the demo need LiteRT for the web: {error}")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder as export.py writes it: an untrained network in float32 and int8, with the heat map of any class."""
    keras.utils.set_random_seed(0)
    preprocessing = Preprocessing(
        40, 56, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation="bicubic", resize="crop", crop_fraction=0.875,
        labels=LABELS,
    )  # fmt: skip
    model = build_model("resnet8", num_classes=len(LABELS), input_shape=(40, 56, 3))
    images = np.random.default_rng(0).integers(0, 256, (24, 5, 7, 3)).repeat(8, axis=1).repeat(8, axis=2)
    folder = tmp_path_factory.mktemp("saved_models") / "demo <i>"
    folder.mkdir()
    rows = [LedgerRow("source", "model.keras", 24, 0.5)]
    for name in ("float32", "int8"):
        network = serving_network(model, preprocessing, heatmap="input", classes=FORMATS[name].reads_head_by)
        contents = convert(network, name, calibration=images.astype(np.float32))
        path = folder / FORMATS[name].file
        path.write_bytes(add_metadata(contents, preprocessing, LABELS, name="demo"))
        beyond = ("agreement 96.0 % <98 %>",) if name == "int8" else ()
        rows.append(LedgerRow(name, path.name, 24, 0.5, agreement=0.96, bytes=len(contents), beyond=beyond))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    write_json(folder / "preprocessing.json", preprocessing.to_dict())
    write_json(folder / "parity.json", {**provenance.result_row(), "rows": [dataclasses.asdict(row) for row in rows]})
    return folder


@pytest.fixture(scope="session")
def photographs():
    """Twenty photographs: name → bytes of the file."""
    # Beside the checkout, or beside the folder that checkouts are in.
    places = [folder / "data" / "photos.tar" for folder in (SHARED, SHARED.parents[1] / "shared")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip(f"no photographs at {places[0]}")
    with tarfile.open(found) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        chosen = [members[place] for place in np.linspace(0, len(members) - 1, 20).astype(int)]
        return {Path(member.name).stem: archive.extractfile(member).read() for member in chosen}


def encoded(picture: Image.Image, container: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, container, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def files(photographs, tmp_path_factory):
    """The photographs as files of many kinds: [(kind, path)]; kinds that begin with "png" are without loss."""
    folder = tmp_path_factory.mktemp("photographs")
    made = []
    for number, (name, contents) in enumerate(photographs.items()):
        picture = Image.open(io.BytesIO(contents))
        turn = 2 + number % 7
        exif = Image.Exif()
        exif[0x0112] = turn
        if number % 5 == 0:
            kind, data = "jpeg as it is", contents
        elif number % 5 == 1:
            kind, data = f"jpeg turned by {turn}", encoded(picture.convert("RGB"), "JPEG", exif=exif, quality=90)
        elif number % 5 == 2:
            kind, data = "png", encoded(picture.convert("RGB"), "PNG", compress_level=1)
        elif number % 5 == 3:
            odd = picture.convert("RGB").resize((301 + 10 * number, 97 + 3 * number))
            # TensorFlow and Pillow turn JPEG files alone.
            kind, data = "png of odd size, said to be turned", encoded(odd, "PNG", exif=exif, compress_level=1)
        else:
            kind, data = "png grey", encoded(picture.convert("L").resize((33, 211)), "PNG", compress_level=1)
        path = folder / f"{name}.{kind.split()[0]}"
        path.write_bytes(data)
        made.append((kind, path))
    return made
