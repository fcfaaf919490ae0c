"""The service over HTTP: what it answers, and what it refuses."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from ggam.data.layouts.registry import load_dataset
from ggam.deploy.predictor import Predictor
from ggam.deploy.serve.examples import Examples, keep_examples
from ggam.deploy.serve.limits import Limits
from ggam.drawing.overlays import overlay
from ggam.runs.run import Run
from serving import NAMES, SlowPredictor, encoded, photo, serving

PNG = encoded(photo())


def ask(client: httpx.Client, *pictures: bytes, **fields: object) -> httpx.Response:
    files = [("images", ("a.png", data)) for data in pictures]
    return client.post("/predict", files=files, data=fields)


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and reason, after a look at the form that every refusal has."""
    assert list(response.json()) == ["error"]
    reason = response.json()["error"]
    assert (
        reason
        and "\n" not in reason
        and "/" not in reason.replace("multipart/form-data", "").replace("of /model", "")
    )
    return response.status_code, reason


def directly(predictor: Predictor, picture: bytes, explain: list[int] | None = None):
    with Image.open(io.BytesIO(picture)) as image:
        return predictor.predict(predictor.transform(image)[None], explain)


def test_the_answer_is_the_models(client: httpx.Client, predictor: Predictor) -> None:
    answer = ask(client, PNG, top=3, map="raw").json()
    expected = directly(predictor, PNG)
    (picture,) = answer["pictures"]
    assert (picture["width"], picture["height"]) == (90, 60)
    # The centre square of 60 · 64/85 pixels: the shorter side is resized to round(64 · 600/448) = 86.
    side = 60 * 64 / 86
    assert picture["region"] == pytest.approx(
        {"left": 45 - side / 2, "top": 30 - side / 2, "right": 45 + side / 2, "bottom": 30 + side / 2}
    )
    order = np.argsort(-expected.probabilities[0])[:3]
    assert [guess["index"] for guess in picture["classes"]] == order.tolist()
    assert [guess["name"] for guess in picture["classes"]] == [NAMES[index] for index in order]
    shares = [guess["probability"] for guess in picture["classes"]]
    assert shares == pytest.approx(expected.probabilities[0][order].tolist(), abs=1e-6)
    (heat,) = picture["maps"]
    assert expected.maps is not None
    np.testing.assert_allclose(heat["values"], expected.maps[0], atol=1e-6)
    assert (heat["index"], heat["empty"], heat["overlay"]) == (order[0], not expected.maps[0].any(), None)


def test_without_a_question_there_are_classes_but_no_map(client: httpx.Client) -> None:
    (picture,) = ask(client, PNG).json()["pictures"]
    assert len(picture["classes"]) == 5
    assert picture["maps"] == []


def test_an_overlay_is_the_map_over_the_region(client: httpx.Client, predictor: Predictor) -> None:
    large = photo(400, 300)
    (picture,) = ask(client, encoded(large), map="overlay").json()["pictures"]
    (heat,) = picture["maps"]
    assert heat["values"] is None
    shown = Image.open(io.BytesIO(base64.b64decode(heat["overlay"])))
    assert shown.format == "PNG"
    assert shown.size == (223, 223), "300 · 64/86 pixels, no more than there are"
    box = picture["region"]
    corners = (round(box["left"]), round(box["top"]), round(box["right"]), round(box["bottom"]))
    crop = large.crop(corners).resize((223, 223))
    expected = directly(predictor, encoded(large)).maps
    assert expected is not None
    again = np.asarray(overlay(crop, expected[0]), dtype=float)
    assert np.abs(again - np.asarray(shown, dtype=float)).mean() < 3


def test_classes_are_explained_by_name_or_index(client: httpx.Client, predictor: Predictor) -> None:
    # "12" is a name before it is an index; a class that is named twice is explained once.
    answer = ask(client, PNG, map="raw", classes=["crake", "0", "12", "2"]).json()
    maps = answer["pictures"][0]["maps"]
    assert [heat["name"] for heat in maps] == ["crake", "auk <b>", "12"]
    for heat in maps:
        expected = directly(predictor, PNG, [heat["index"]])
        assert expected.maps is not None
        np.testing.assert_allclose(heat["values"], expected.maps[0], atol=1e-6)
        assert heat["probability"] == pytest.approx(expected.probabilities[0][heat["index"]], abs=1e-6)


def test_several_pictures_keep_their_order(client: httpx.Client, predictor: Predictor) -> None:
    pictures = [encoded(photo(seed=seed), kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP", "PNG"))]
    answers = ask(client, *pictures, top=1).json()["pictures"]
    for picture, answer in zip(pictures, answers, strict=True):
        expected = directly(predictor, picture).probabilities[0]
        assert answer["classes"][0]["probability"] == pytest.approx(float(expected.max()), abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"top": "0"}, "top='0': expected how many classes"),
        ({"top": "²"}, "from 1 to 1000"),
        ({"top": "-1"}, "from 1 to 1000"),
        ({"map": "heat"}, "map='heat': expected overlay, raw, none"),
        ({"classes": "gull", "map": "raw"}, "classes='gull': no such class"),
        ({"classes": "5", "map": "raw"}, "from 0 to 4"),
        ({"classes": "1"}, "expected map=overlay or map=raw"),
        ({"colour": "red"}, "unknown field 'colour': expected images, classes, top, map"),
    ],
)
def test_a_bad_question_is_refused(client: httpx.Client, fields: dict[str, str], reason: str) -> None:
    status, said = refusal(ask(client, PNG, **fields))
    assert status == 422
    assert reason in said


@pytest.mark.parametrize(
    ("pictures", "status", "reason"),
    [
        ([b"x" * 200_001], 413, "picture 1 is too large: at most 200000 bytes"),
        ([b"x" * 190_000] * 3, 413, "the request is too large: at most 500000 bytes"),
        ([PNG] * 7, 413, "too many pictures: at most 6"),
        ([encoded(Image.new("1", (5000, 81)))], 413, "picture 1 has too many pixels: at most 400000"),
        ([PNG, b"GIF89a"], 415, "picture 2 is not a JPEG, PNG or WebP picture"),
        ([encoded(photo(), "GIF")], 415, "not a JPEG, PNG or WebP"),
        ([encoded(photo(300, 300))[:4000]], 422, "picture 1 is damaged"),
        ([b""], 422, "picture 1 is empty"),
        ([], 415, "expected multipart/form-data"),
    ],
)
def test_what_is_too_much_or_no_picture_is_refused(
    client: httpx.Client, pictures: list[bytes], status: int, reason: str
) -> None:
    answered, said = refusal(ask(client, *pictures))
    assert answered == status
    assert reason in said
    assert "held_bytes 0.0" in client.get("/metrics").text


def test_limits_hold_without_a_content_length(client: httpx.Client) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

    def body(count: int) -> Iterator[bytes]:
        yield head
        for _ in range(count):
            yield b"x" * 50_000

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, said = refusal(client.post("/predict", content=body(100), headers=kind))
    assert (status, said) == (413, "picture 1 is too large: at most 200000 bytes are accepted")
    assert refusal(client.post("/predict", content=body(1), headers=kind)) == (
        400,
        "the form ends before its last boundary",
    )


def test_pictures_times_classes_are_counted(client: httpx.Client) -> None:
    status, said = refusal(ask(client, PNG, PNG, PNG, map="raw", classes=["0", "1", "2"]))
    assert (status, said) == (413, "pictures times classes: at most 6 in one request")


def test_unknown_addresses_and_methods(client: httpx.Client) -> None:
    assert refusal(client.get("/nowhere")) == (404, "not found")
    assert refusal(client.get("/predict")) == (405, "method not allowed")
    assert refusal(client.get("/static/../app.py"))[0] == 404
    assert refusal(client.get("/examples/x/0"))[0] == 422


def test_every_answer_has_the_headers(client: httpx.Client) -> None:
    for path in (
        "/",
        "/app.js",
        "/style.css",
        "/icon.svg",
        "/healthz",
        "/readyz",
        "/model",
        "/metrics",
        "/x",
    ):
        response = client.get(path)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/").text + client.get("/style.css").text + client.get("/app.js").text
    assert "://" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "<script>" not in page and "style=" not in page, "the policy forbids code and style in the page"


def test_status(client: httpx.Client, predictor: Predictor, model_folder: Path) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    model = client.get("/model").json()
    assert model["class_names"] == list(NAMES)
    assert model["maps"] == "any"
    assert model["fingerprint"] == predictor.fingerprint()
    assert model["limits"]["max_files"] == 6
    assert model["description"]["image_size"] == 64
    assert str(model_folder.parent) not in client.get("/model").text
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/predict", "/healthz", "/readyz", "/metrics", "/model", "/examples/{index}/{number}"
    }  # fmt: skip
    form = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"images", "top", "map", "classes"}


def test_metrics_count_outcomes(predictor: Predictor) -> None:
    with serving(predictor) as client:
        for _ in range(3):
            assert ask(client, PNG, PNG).status_code == 200
        assert ask(client, b"no picture").status_code == 415
        text = client.get("/metrics").text
    assert 'ggam_requests_total{outcome="ok"} 3.0' in text
    assert 'ggam_requests_total{outcome="refused"} 1.0' in text
    assert "ggam_pictures_total 6.0" in text
    assert "ggam_batch_size_sum 6.0" in text
    assert "ggam_request_seconds_count 3.0" in text
    assert "ggam_requests_in_hand 0.0" in text


def test_a_token_is_asked_for(predictor: Predictor) -> None:
    with serving(predictor, token="secret ünïcode".encode().hex()) as client:
        for path in ("/", "/app.js", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic c2VjcmV0"}):
            for path in ("/model", "/metrics", "/openapi.json", "/examples/0/0", "/nowhere"):
                response = client.get(path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
            response = client.post("/predict", files={"images": PNG}, headers=headers)
            assert response.status_code == 401
            assert "token" in response.json()["error"]
        right = {"Authorization": f"Bearer {'secret ünïcode'.encode().hex()}"}
        assert client.post("/predict", files={"images": PNG}, headers=right).status_code == 200


def test_a_model_with_maps_of_the_first_class_says_so() -> None:
    with serving(SlowPredictor("top")) as client:
        assert ask(client, PNG, map="raw").status_code == 200
        status, said = refusal(ask(client, PNG, map="raw", classes="dark"))
        assert (status, "the most probable class only" in said) == (422, True)
    with serving(SlowPredictor("none")) as client:
        assert ask(client, PNG).status_code == 200
        assert refusal(ask(client, PNG, map="raw"))[1] == "map='raw': this model has no heat maps"


def test_examples_of_classes(predictor: Predictor, tmp_path: Path) -> None:
    photo(900, 600).save(tmp_path / "1.jpg", exif=b"")
    photo(30, 40).save(tmp_path / "1-another.PNG")
    photo().save(tmp_path / "7.png")  # there is no class 7
    (tmp_path / "2-broken.jpg").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("1")
    examples = Examples(tmp_path, len(NAMES))
    with serving(predictor, examples=examples) as client:
        assert client.get("/model").json()["examples"] == {"1": 2, "2": 1}
        response = client.get("/examples/1/1")
        assert response.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(response.content)).size == (320, 213)
        for path in ("/examples/1/2", "/examples/0/0", "/examples/-1/0", "/examples/2/0", "/examples/7/0"):
            assert refusal(client.get(path)) == (404, "no such example")


def test_a_run_keeps_two_pictures_of_each_class(squares: Path, tmp_path: Path) -> None:
    keep_examples(Run(tmp_path), load_dataset(squares, split="train"), seed=0)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "examples").iterdir()}
    assert sorted(kept) == [f"{label}-{number}.jpg" for label in range(3) for number in (1, 2)]
    # Classes in alphabetical order: blue, green, red.
    for label, channel in enumerate((2, 1, 0)):
        pixels = np.asarray(Image.open(io.BytesIO(kept[f"{label}-1.jpg"])))
        assert pixels.mean(axis=(0, 1)).argmax() == channel
    keep_examples(Run(tmp_path), load_dataset(squares, split="train"), seed=0)
    assert kept == {file.name: file.read_bytes() for file in (tmp_path / "examples").iterdir()}
    assert Examples.beside(tmp_path, 3).counts() == {0: 2, 1: 2, 2: 2}


def test_a_failing_model_is_an_error_of_one_request(caplog: pytest.LogCaptureFixture) -> None:
    predictor = SlowPredictor()
    with serving(predictor) as client:
        predictor.broken = True
        assert refusal(ask(client, PNG)) == (500, "the model failed; the log of the service says why")
        assert "no more memory on the device" in caplog.text
        predictor.broken = False
        predictor.diverged = True
        assert refusal(ask(client, PNG))[0] == 500
        assert "probabilities are not finite" in caplog.text
        predictor.diverged = False
        assert ask(client, PNG).status_code == 200
        assert 'outcome="failed"} 2.0' in client.get("/metrics").text


def test_held_bytes_of_all_requests_are_limited(predictor: Predictor) -> None:
    with serving(predictor, Limits(max_held_bytes=len(PNG) + 10)) as client:
        assert ask(client, PNG).status_code == 200
        response = ask(client, PNG, PNG)
        assert response.headers["retry-after"] == "1"
        assert refusal(response)[0] == 429
        assert ask(client, PNG).status_code == 200


def test_brightness_survives_the_way() -> None:
    """An answer that can be worked out by hand: the mean of a grey picture is its logit."""
    with serving(SlowPredictor()) as client:
        (picture,) = ask(client, encoded(Image.new("L", (20, 20), 255)), top=3).json()["pictures"]
    e = float(torch.e)
    assert picture["classes"][0]["name"] == "bright"
    shares = [guess["probability"] for guess in picture["classes"]]
    assert shares == pytest.approx([e / (e + 2), 1 / (e + 2), 1 / (e + 2)], abs=1e-5)
