"""Every route, asked well and badly, in this process."""

import base64
import io
import json
import re
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from keras_resnet.data.images import decode_with_pillow, resize_with_pillow
from keras_resnet.server import service
from keras_resnet.server.app import create_app
from keras_resnet.server.pictures import LARGEST_PICTURE
from keras_resnet.server.repository import open_models
from keras_resnet.server.settings import ServerSettings

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def client_of(flowers, plain):
    clients = []

    def make(**options):
        settings = ServerSettings(models={"flowers": flowers, "plain": plain}, backend="tflite", **options)
        client = TestClient(create_app(open_models(settings, lambda line: None), settings))
        clients.append(client)
        return client.__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def client(client_of):
    return client_of()


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert message.endswith((".", "'"))
    return message


def b64(contents):
    return {"b64": base64.b64encode(contents).decode()}


def predict(client, body, path="/v1/models/flowers:predict", **options):
    return client.post(path, content=json.dumps(body), **options)


def test_classify_answers_labels_with_probabilities(client, pictures, expected):
    for index, picture in enumerate(pictures[:5]):
        answer = client.post("/v1/models/flowers:classify", content=picture)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["model"], found["version"]) == ("flowers", "1")
        order = np.argsort(-expected[index])
        labels = ["red", "green", "blue", "größer"]
        assert [entry["label"] for entry in found["predictions"]] == [labels[number] for number in order]
        probabilities = [entry["probability"] for entry in found["predictions"]]
        np.testing.assert_allclose(probabilities, expected[index][order], atol=1e-6)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_classify_takes_a_file_whatever_its_client_calls_it(client, pictures, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/v1/models/flowers/versions/1:classify?top=1", content=pictures[0], headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1


def test_classify_takes_the_file_of_a_form(client, pictures):
    alone = client.post("/v1/models/flowers:classify", content=pictures[3]).json()
    files = {"image": ("größe.png", pictures[3], "image/png")}
    assert client.post("/v1/models/flowers:classify", files=files, data={"note": "x"}).json() == alone
    # Line ends and boundaries inside a file change nothing.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    asked = [
        client.post("/v1/models/flowers:classify", content=file.getvalue()),
        client.post("/v1/models/flowers:classify", files={"image": file.getvalue()}),
    ]
    assert asked[0].json() == asked[1].json()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"data": {"image": "text"}}, "holds no file"),
        ({"files": [("a", b"1"), ("b", b"2")]}, "Too many files"),
        ({"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "form"),
        ({"content": b"--x--", "headers": {"Content-Type": "multipart/form-data"}}, "boundary"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "holds no file"),
        ({"files": {"image": b""}}, "The body is empty"),
    ],
)
def test_bad_forms_are_a_sentence(client, form, message):
    if "data" in form:
        form = {"files": {"image": (None, "text")}}
    assert message in error_of(client.post("/v1/models/flowers:classify", **form), 400)


def truncated(pictures):
    return pictures[0][: len(pictures[0]) // 2]


def png_that_claims(width, height):
    """A PNG of a few bytes whose header claims any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("verb", ["classify", "explain"])
def test_bodies_that_are_no_images_are_refused(client, pictures, verb):
    url = f"/v1/models/flowers:{verb}"
    assert "empty" in error_of(client.post(url), 400)
    assert "not an image that can be read" in error_of(client.post(url, content=b"<svg/>"), 400)
    assert "not a complete image" in error_of(client.post(url, content=truncated(pictures)), 400)
    assert "JSON goes to :predict" in error_of(client.post(url, json={"instances": []}), 415)
    assert "text/html" in error_of(client.post(url, content="x", headers={"Content-Type": "text/html"}), 415)
    assert "Content-Encoding" in error_of(
        client.post(url, content=zlib.compress(pictures[0]), headers={"Content-Encoding": "deflate"}), 415
    )
    # What Pillow reads beside the formats of the signatures is not offered to strangers.
    for container in ("TIFF", "ICO", "PPM", "TGA"):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, container)
        assert "not an image that can be read" in error_of(client.post(url, content=file.getvalue()), 400)
    assert "not an image" in error_of(client.post(url, content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"), 400)


def test_bombs_are_refused_before_they_are_unpacked(client):
    sizes = ((30_000, 30_000), (5_001, 5_000), (2**31 - 1, 2**31 - 1))
    for width, height in sizes:
        message = error_of(client.post("/v1/models/flowers:classify", content=png_that_claims(width, height)), 400)
        assert "pixels" in message
        body = {"signature_name": "serve_bytes", "instances": [b64(png_that_claims(width, height))]}
        assert "pixels" in error_of(predict(client, body), 400)
    # A GIF whose screen is small and whose frame is not.
    frame = b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + bytes(6) + b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00"
    assert client.post("/v1/models/flowers:classify", content=frame + b"\x02\x02L\x01\x00;").status_code in (200, 400)


def test_a_strip_of_pixels_costs_no_more_than_its_pixels(client):
    for size in ((1, 60_000), (60_000, 1)):
        file = io.BytesIO()
        Image.new("RGB", size, (200, 30, 30)).save(file, "PNG")
        for verb in ("classify", "explain"):
            assert client.post(f"/v1/models/flowers:{verb}", content=file.getvalue()).status_code == 200


def test_the_body_has_a_limit_whether_its_length_is_told_or_not(client_of, pictures):
    client = client_of(max_body_bytes=1000)
    large = pictures[0].ljust(2000, b"\0")

    def pieces():
        yield from (large[start : start + 100] for start in range(0, 2000, 100))

    for verb in ("predict", "classify", "explain"):
        for content in (large, pieces()):
            assert "1,000 bytes" in error_of(client.post(f"/v1/models/flowers:{verb}", content=content), 413)
    # By the length that is claimed, nothing need be sent.
    lying = client.post("/v1/models/flowers:classify", content=b"x", headers={"Content-Length": "9" * 40})
    assert lying.status_code == 413


def test_long_answers_are_written_as_short_ones(client, pictures, monkeypatch):
    """In a thread of their own; the text is the same to the letter."""
    body = {"signature_name": "serve_bytes", "instances": [b64(picture) for picture in pictures[:3]]}
    short = predict(client, body)
    monkeypatch.setattr(service, "_FEW_NUMBERS", 0)
    assert short.status_code == 200
    assert predict(client, body).text == short.text


def test_labels_have_a_limit(client, pictures):
    for text in ("0", "-1", "1.5", "x", "", "1001", "٣", "9" * 5000):
        message = error_of(client.post("/v1/models/flowers:classify", params={"top": text}, content=pictures[0]), 400)
        assert message.startswith("top is a whole number from 1 to 1000")
    assert len(client.post("/v1/models/flowers:classify?top=2", content=pictures[0]).json()["predictions"]) == 2
    assert len(client.post("/v1/models/flowers:classify?top=9", content=pictures[0]).json()["predictions"]) == 4


def test_explain_answers_the_heat_map_inside_the_file(client, flowers, pictures, expected):
    from keras_resnet.artifact import load_artifact
    from keras_resnet.runtimes import open_tflite

    artifact = load_artifact(flowers / "float32.tflite")
    image = resize_with_pillow(decode_with_pillow(pictures[2], 3, name="x"), artifact.preprocessing)[np.newaxis]
    found = client.post("/v1/models/flowers:explain", content=pictures[2]).json()
    best = int(expected[2].argmax())
    assert found["explained"]["label"] == found["predictions"][0]["label"] == artifact.labels[best]
    np.testing.assert_allclose(found["heatmap"], artifact.heatmaps(image)[0], rtol=1e-5, atol=1e-6)
    runtime = open_tflite(str(flowers / "float32.tflite"))
    for number, label in enumerate(artifact.labels):
        own = runtime.answer(image, np.array([number]))["heatmap"][0]
        for target in (label, str(number)):
            answer = client.post("/v1/models/flowers:explain", params={"target": target}, content=pictures[2]).json()
            np.testing.assert_allclose(answer["heatmap"], own, rtol=1e-5, atol=1e-6)
            assert answer["explained"] == {
                "label": label,
                "probability": pytest.approx(float(expected[2][number]), abs=1e-6),
            }


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("application/json;q=0.5, image/png", "image/png"),
        ("image/png;q=0.1, */*;q=0.5", "application/json"),
        ("text/html, image/*;q=0.9, */*;q=0.1", "image/png"),
        ("image/png;q=x, application/json", "application/json"),
    ],
)
def test_explain_answers_what_is_accepted(client, pictures, accept, kind):
    headers = {} if accept is None else {"Accept": accept}
    answer = client.post("/v1/models/flowers:explain", content=pictures[0], headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == kind
    assert answer.headers["vary"] == "Accept"


def test_the_heat_map_is_laid_over_the_image(client, pictures):
    headers = {"Accept": "image/png"}
    answer = client.post("/v1/models/flowers:explain", content=pictures[0], headers=headers)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 240
    large = io.BytesIO()
    Image.new("RGB", (3000, 2000), (9, 200, 9)).save(large, "JPEG")
    answer = client.post("/v1/models/flowers:explain", content=large.getvalue(), headers=headers)
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert LARGEST_PICTURE < picture.width < LARGEST_PICTURE + 300  # the bar beside it
    refused = client.post("/v1/models/flowers:explain", content=pictures[0], headers={"Accept": "text/html"})
    assert "application/json or image/png" in error_of(refused, 406)


def test_without_a_heat_map_the_answer_is_a_sentence(client, pictures):
    message = error_of(client.post("/v1/models/plain:explain", content=pictures[0]), 400)
    assert message == "The plain file that is served has no heat map inside. Export it with --with-heatmap."
    body = {"signature_name": "explain_bytes", "instances": [b64(pictures[0])]}
    assert "no heat map" in error_of(predict(client, body, "/v1/models/plain:predict"), 400)
    unknown = client.post("/v1/models/flowers:explain?target=gren", content=pictures[0])
    assert error_of(unknown, 400).startswith("Unknown class 'gren'. Closest: 'green'")
    assert "Unknown class '4'" in error_of(client.post("/v1/models/flowers:explain?target=4", content=pictures[0]), 400)


def test_models_and_versions_that_are_not_there(client, pictures):
    for path in (":predict", ":classify", ":explain"):
        for content in (b"{}", pictures[0]):
            assert (
                error_of(client.post(f"/v1/models/flowrs{path}", content=content), 404)
                == "Unknown model 'flowrs'. Closest: 'flowers'."
            )
        assert "version 1, not in 2" in error_of(client.post(f"/v1/models/flowers/versions/2{path}"), 404)
        for version in ("x", "-1", "1.0", "9" * 5000, "٣"):
            assert "whole number" in error_of(client.post(f"/v1/models/flowers/versions/{version}{path}"), 404)
    for path in ("", "/metadata"):
        error_of(client.get(f"/v1/models/rose{path}"), 404)
        error_of(client.get(f"/v1/models/flowers/versions/9{path}"), 404)
    assert "nothing at /v1/modles" in error_of(client.get("/v1/modles"), 404)
    answer = client.get("/v1/models/flowers:classify")
    assert "not allowed" in error_of(answer, 405)
    assert answer.headers["allow"] == "POST"
    error_of(client.post("/v1/models/flowers"), 405)


def test_status_and_metadata_are_those_of_tensorflow_serving(client):
    ok = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/flowers", "/v1/models/flowers/versions/1"):
        assert client.get(path).json() == {"model_version_status": [ok]}
    found = client.get("/v1/models/flowers/metadata").json()
    assert client.get("/v1/models/flowers/versions/1/metadata").json() == found
    assert found["model_spec"] == {"name": "flowers", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert list(signatures) == [
        "serving_default", "serve_uint8", "serve_bytes", "explain_bytes", "explain_class_bytes"
    ]  # fmt: skip
    images = signatures["serving_default"]["inputs"]["images"]
    assert images["dtype"] == "DT_FLOAT"
    assert [side["size"] for side in images["tensor_shape"]["dim"]] == ["-1", "16", "20", "3"]
    assert set(signatures["explain_class_bytes"]["inputs"]) == {"images", "target"}
    plain = client.get("/v1/models/plain/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert list(plain) == ["serving_default", "serve_uint8", "serve_bytes"]
    assert set(plain["serve_bytes"]["outputs"]) == {"probabilities", "labels", "scores"}


def test_health_readiness_and_numbers(client, pictures):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    before = client.get("/metrics").text
    client.post("/v1/models/flowers:classify", content=pictures[0])
    client.post("/v1/models/nobody-s:classify", content=pictures[0])
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")

    def count(text, code, model):
        name = f'keras_resnet_requests_total{{code="{code}",model="{model}",verb="classify"}}'
        found = re.search(re.escape(name) + r" ([\d.]+)", text)
        return float(found[1]) if found else 0.0

    assert count(answer.text, 200, "flowers") == count(before, 200, "flowers") + 1
    assert count(answer.text, 404, "") == count(before, 404, "") + 1
    assert "nobody" not in answer.text  # strangers make up no series
    assert 'keras_resnet_model_served{format="float32",model="flowers",version="1"} 1.0' in answer.text
    assert "keras_resnet_requests_in_progress 0.0" in answer.text
    assert "keras_resnet_batch_size_bucket" in answer.text


def test_pages_load_nothing_from_anywhere(client):
    start, docs = client.get("/"), client.get("/docs")
    assert "flowers" in start.text
    assert "16 × 20 × 3" in start.text
    assert "/v1/models/{name}/versions/{version}:explain" in docs.text
    for page in (start, docs):
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"<script|src=|href=\"http", page.text)
        assert page.headers["x-content-type-options"] == "nosniff"


def test_the_openapi_document_names_every_route(client):
    text = client.get("/openapi.json").json()
    assert text["openapi"].startswith("3.")
    assert len(text["paths"]) == 5 + 2 * 5
    ids = [operation.get("operationId") for path in text["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    explain = text["paths"]["/v1/models/{name}:explain"]["post"]
    assert set(explain["responses"]["200"]["content"]) == {"application/json", "image/png"}
    assert {parameter["name"] for parameter in explain["parameters"]} == {"name", "top", "target"}
    assert "422" not in explain["responses"]
    assert "securitySchemes" not in text.get("components", {})


def test_a_key_opens_what_needs_one(client_of, pictures):
    client = client_of(api_keys=("another-key-of-mine", KEY))
    url = "/v1/models/flowers:classify"
    wrong = (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": ""},
        {"X-API-Key": "größer".encode()},
    )
    for headers in wrong:
        answer = client.post(url, content=pictures[0], headers=headers)
        assert "needs an API key" in error_of(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}, {"authorization": f"bearer {KEY}"}):
        assert client.post(url, content=pictures[0], headers=headers).status_code == 200
    for path in ("/metrics", "/v1/models/flowers", "/v1/models/flowers/metadata"):
        error_of(client.get(path), 401)
        assert client.get(path, headers={"X-API-Key": KEY}).status_code == 200
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert "flowers" not in client.get("/").text
    assert "flowers" in client.get("/", headers={"X-API-Key": KEY}).text
    assert set(client.get("/openapi.json").json()["components"]["securitySchemes"]) == {"bearer", "key"}


def test_other_origins_are_let_in_by_name_alone(client_of, client, pictures):
    ask = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    answer = client.post("/v1/models/flowers:classify", content=pictures[0], headers={"Origin": ask["Origin"]})
    assert "access-control-allow-origin" not in answer.headers
    error_of(client.options("/v1/models/flowers:classify", headers=ask), 405)
    friend = client_of(cors_origins=("https://shop.example",), api_keys=(KEY,))
    answer = friend.options(
        "/v1/models/flowers:classify", headers={**ask, "Access-Control-Request-Headers": "authorization"}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    stranger = friend.options("/v1/models/flowers:classify", headers={**ask, "Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in stranger.headers


def replace_network(client, monkeypatch, run):
    """Has `run` answer in the network's place; it takes the network's own answer and the questions."""
    batcher = client.app.state.service.repository.models["flowers"].servables[1].batcher
    answer = batcher._run
    monkeypatch.setattr(batcher, "_run", lambda questions: run(answer, questions))


def slowly(seconds):
    def run(answer, questions):
        time.sleep(seconds)
        return answer(questions)

    return run


def test_a_deadline_ends_a_request(client_of, pictures, monkeypatch):
    client = client_of(deadline_seconds=0.3)
    replace_network(client, monkeypatch, slowly(1.0))
    answer = client.post("/v1/models/flowers:classify", content=pictures[0])
    assert error_of(answer, 504) == "The request could not be answered within 0.3 s."


def test_a_network_that_fails_is_told_without_its_insides(client_of, pictures, monkeypatch):
    client = client_of()

    def fails(answer, questions):
        raise RuntimeError("tensor 0x7f")

    replace_network(client, monkeypatch, fails)
    message = error_of(client.post("/v1/models/flowers:classify", content=pictures[0]), 500)
    assert message == "The network failed on this request. The server's log says more."


def test_a_full_server_says_when_to_come_again(client_of, pictures, monkeypatch):

    client = client_of(queue_size=2, batch_size=1)
    replace_network(client, monkeypatch, slowly(0.3))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.post("/v1/models/flowers:classify", content=pictures[i]), range(8)))
    codes = sorted(answer.status_code for answer in answers)
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 2
    for answer in answers:
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert "queue is full" in error_of(answer, 503)
    # One request of more images than the queue holds can never be answered, and is told so.
    body = {"signature_name": "serve_bytes", "instances": [b64(pictures[0])] * 3}
    assert "1 to 2 images" in error_of(predict(client, body), 400)
