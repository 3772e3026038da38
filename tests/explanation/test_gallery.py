import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from keras_resnet.artifact import artifact_of
from keras_resnet.data.sources import load_source
from keras_resnet.errors import UserError
from keras_resnet.explanation.gallery import choose_examples, make_gallery
from keras_resnet.models.resnet import build_model


@pytest.fixture(scope="module")
def data():
    return load_source("shapes:count=100,size=16")


@pytest.fixture(scope="module")
def page(data):
    labels = ("<arrow> & co", *data.labels[1:])  # a name that HTML must not take for its own
    model = build_model("resnet8", input_shape=(16, 16, 3), num_classes=8)
    artifact = artifact_of(model, data.preprocessing(labels=labels))
    return make_gallery(artifact, data.test, title="What resnet8 looks at", scored=6, per_group=2, mean_of=2)


def test_page_opens_from_disk_whole(page, data, browser, tmp_path):
    file = tmp_path / "gallery.html"
    file.write_text(page, encoding="utf-8")
    assert browser.problems(file) == []
    assert browser.run("return document.title") == "What resnet8 looks at"
    headings = browser.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert headings[:2] == ["How far the maps can be trusted", "<arrow> & co"]
    assert len(headings) == 1 + len(set(data.test.labels))
    assert browser.run("return document.images.length") > 40
    # Nothing but the wide table may be scrolled sideways.
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    # What the links in the head promise is there.
    assert browser.run(
        "return [...document.querySelectorAll('nav a')].every(a => document.querySelector(a.getAttribute('href')))"
    )
    picture = Image.open(io.BytesIO(base64.b64decode(browser.ask("GET", "/screenshot"))))
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 500


def test_the_browser_finds_what_is_broken(page, browser, tmp_path):
    file = tmp_path / "broken.html"
    file.write_text(page.replace("</body>", '<img src="gone.png" alt="gone"></body>'), encoding="utf-8")
    assert any("gone" in problem for problem in browser.problems(file))
    file.write_text(page.replace("</body>", "<script>nothing()</script></body>"), encoding="utf-8")
    assert any("nothing is not defined" in problem for problem in browser.problems(file))


def test_scores_stand_beside_the_baselines(page):
    rows = re.findall(r"<tr[^>]*><th>([^<]*)</th>", page)
    assert rows[-2:] == ["Centred Gaussian", "Random"]
    assert rows[1] == "Grad-CAM"
    assert "pointing" in page  # the masks of the shapes were found


def test_examples_are_chosen_by_confidence():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.55, 0.45], [0.4, 0.6], [0.05, 0.95]])
    labels = np.array([0, 0, 0, 0, 0, 1])
    chosen = choose_examples(probabilities, labels, 1)
    places = {kind: [shown.position for shown in part] for kind, part in chosen[0].items()}
    assert places == {"right": [0], "wrong": [2], "unsure": [3]}
    assert chosen[0]["wrong"][0].predicted == 1
    assert chosen[0]["wrong"][0].true_probability == 0.2
    # An image is shown once.
    assert [shown.position for shown in chosen[1]["right"]] == [5]
    assert chosen[1]["wrong"] == chosen[1]["unsure"] == []


def test_other_classes_are_refused(data):
    model = build_model("resnet8", input_shape=(16, 16, 3), num_classes=3)
    artifact = artifact_of(model, data.preprocessing(labels=("a", "b", "c")))
    with pytest.raises(UserError, match="8 classes, the model 3"):
        make_gallery(artifact, data.test, title="")


def test_names_are_escaped_once(page):
    assert 'alt="mean map of &lt;arrow&gt; &amp; co"' in page
    assert 'alt="map for &lt;arrow&gt; &amp; co"' in page
    assert "&amp;lt;" not in page
    assert "&amp;amp;" not in page
