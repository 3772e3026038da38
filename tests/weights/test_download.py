"""Published weights come once, whole and with the right digest; checked against a server on this machine."""

import dataclasses
import hashlib
import http.server
import threading
import warnings

import numpy as np
import pytest

from keras_resnet.applications import create_model
from keras_resnet.errors import UserError
from keras_resnet.weights import catalog, loading, pytorch
from keras_resnet.weights.download import cache_directory, fetch
from keras_resnet.weights.loading import learnt_preprocessing


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, announced = self.server.files.get(self.path, (None, 0))
        self.server.requests.append(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests = {}, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(server, small, tmp_path):
    """An entry of the catalogue for resnet8, its file on the server."""
    model, state = small
    loading.load_weights(model, state)
    pytorch.save_checkpoint(model, tmp_path / "resnet8.safetensors")
    content = (tmp_path / "resnet8.safetensors").read_bytes()
    server.files["/resnet8.safetensors"] = (content, len(content))
    entry = catalog.find_weights("resnet20", "akamaster:cifar10")
    return dataclasses.replace(
        entry,
        model="resnet8",
        url=f"http://127.0.0.1:{server.server_port}/resnet8.safetensors",
        digest=f"sha256:{hashlib.sha256(content).hexdigest()[:8]}",
    )


def test_a_tag_downloads_once_and_then_works_without_network(published, server, cache, monkeypatch, small):
    monkeypatch.setattr(catalog, "CATALOG", (published,))
    _, state = small
    model = create_model("resnet8", weights="akamaster:cifar10")
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[1], state["linear.bias"])
    preprocessing = learnt_preprocessing(model, "akamaster:cifar10")
    assert preprocessing.labels == catalog.CIFAR10_LABELS
    assert (preprocessing.height, preprocessing.mean) == (32, (0.485, 0.456, 0.406))
    server.files.clear()
    create_model("resnet8", weights="akamaster:cifar10")
    assert server.requests == ["/resnet8.safetensors"]
    assert [path.name for path in cache.iterdir()] == ["resnet8.safetensors"]


def test_the_head_has_the_classes_of_the_weights(published, server, cache, monkeypatch, tmp_path):
    path = tmp_path / "four.safetensors"
    pytorch.save_checkpoint(create_model("resnet8", num_classes=4), path)
    server.files["/resnet8.safetensors"] = (path.read_bytes(), path.stat().st_size)
    entry = dataclasses.replace(published, digest="", classes=4, labels=())
    monkeypatch.setattr(catalog, "CATALOG", (entry,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the head is not new
        model = create_model("resnet8", weights="akamaster:cifar10")
    assert model.output_shape == (None, 4)
    with pytest.warns(UserWarning, match="head is new"):
        assert create_model("resnet8", weights="akamaster:cifar10", num_classes=3).output_shape == (None, 3)


def test_preprocessing_follows_the_input_and_the_head(published, cache, monkeypatch):
    monkeypatch.setattr(catalog, "CATALOG", (published,))
    with pytest.warns(UserWarning, match="head is new"):
        model = create_model("resnet8", num_classes=3, input_shape=(48, 40, 3), weights="akamaster:cifar10")
    preprocessing = learnt_preprocessing(model, "akamaster:cifar10")
    assert (preprocessing.height, preprocessing.width) == (48, 40)
    assert preprocessing.labels == ()
    with pytest.warns(UserWarning, match="folded"):
        model = create_model("resnet8", input_shape=(32, 32, 1), weights="akamaster:cifar10")
    preprocessing = learnt_preprocessing(model, "akamaster:cifar10")
    assert (preprocessing.channels, len(preprocessing.mean)) == (1, 1)


def test_a_wrong_digest_leaves_nothing_behind(published, cache):
    wrong = dataclasses.replace(published, digest="sha256:00000000")
    with pytest.raises(UserError, match="is not the published file"):
        fetch(wrong)
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_removed(published, cache):
    path = fetch(published)
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="removed"):
        fetch(published)
    assert not path.exists()
    assert fetch(published) == path


def test_a_broken_download_leaves_nothing_behind(published, server, cache):
    content, length = server.files["/resnet8.safetensors"]
    server.files["/resnet8.safetensors"] = (content[: length // 2], length)
    with pytest.raises(UserError, match=r"resnet8\.safetensors"):
        fetch(published)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/resnet8.pth", None])
def test_without_network_the_error_says_where_to_put_the_file(url, published, server, cache):
    server.files.clear()  # 404 where the server answers; nobody answers on port 9
    entry = dataclasses.replace(published, url=url or published.url)
    with pytest.raises(UserError) as raised:
        fetch(entry)
    assert str(cache / entry.filename) in str(raised.value)
    assert entry.url in str(raised.value)


def test_only_the_web_is_asked(published, cache):
    with pytest.raises(UserError, match="http"):
        fetch(dataclasses.replace(published, url="file:///etc/passwd"))


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_RESNET_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "keras_resnet"
