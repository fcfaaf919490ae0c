"""The crop that a model saw, and the files that `explain_files` writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ggam import create_model, explain, explain_maps
from ggam.data.records import DataError, Sample
from ggam.data.transforms import ImageTransform
from ggam.methods.base import FineGrainedModel
from ggam.report.panels import (
    Guess,
    HeatMap,
    PanelOptions,
    class_index,
    crop_of,
    default_maps,
    explain_files,
    guesses_of,
)

NAMES = ("auk", "booby", "crake", "dove")


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def tiny_model(method: str = "ggam", **options: object) -> FineGrainedModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
    return create_model(
        backbone,
        class_names=NAMES,
        method=method,
        image_size=48,
        **options,  # pyright: ignore[reportArgumentType]
    )


def test_the_crop_is_the_one_that_the_model_saw(tmp_path: Path) -> None:
    noise((90, 70)).save(tmp_path / "a.png")
    sample = Sample(tmp_path / "a.png", 0, banner=10)
    transform = ImageTransform(48, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    with Image.open(sample.path) as image:
        tensor = transform(image, banner=10)
    mean, std = (torch.tensor(part)[:, None, None] for part in (transform.mean, transform.std))
    seen = (255 * (tensor * std + mean)).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(crop_of(sample, transform)), seen)
    assert crop_of(sample, transform, 200).size == (200, 200)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be read"):
        crop_of(Sample(broken, 0), ImageTransform(48, (0.0,) * 3, (1.0,) * 3))


def test_guesses_are_sorted_and_at_most_all_classes() -> None:
    probabilities = torch.tensor([0.125, 0.625, 0.25])
    guesses = guesses_of(probabilities, NAMES[:3], 2)
    assert guesses == (Guess("booby", 0.625), Guess("crake", 0.25))
    assert len(guesses_of(probabilities, NAMES[:3], 99)) == 3


def test_attention_is_shown_only_where_it_is_at_work() -> None:
    assert default_maps(tiny_model()) == ("gradcam", "spatial")
    assert default_maps(tiny_model(spatial=False)) == default_maps(tiny_model("baseline")) == ("gradcam",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bobby", r"class 'bobby' is none of the model's 4 classes; did you mean 'booby'\?"),
        ("DOVE", "did you mean 'dove'"),
        ("ov", "did you mean 'dove'"),
        ("xylophone", "none is close to it"),
    ],
)
def test_an_unknown_class_is_answered_with_the_nearest(name: str, message: str) -> None:
    assert class_index("crake", NAMES) == 2
    with pytest.raises(ValueError, match=message):
        class_index(name, NAMES)


def test_other_classes_are_explained_beside_the_predicted_one(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        noise((70, 60)).save(tmp_path / name)
    model = tiny_model()
    options = PanelOptions(maps=("gradcam", "spatial", "gradcam-features"), classes=NAMES, dpi=40)
    entries, _ = explain_files(
        model, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "o", options=options, top=1
    )
    with Image.open(tmp_path / "a.png") as image:
        pixels = model.config.transform()(image)[None]
    for entry in entries:
        maps = np.load(entry.maps)
        predicted = entry.classes[0].name
        others = [name for name in NAMES if name != predicted]
        assert [guess.name for guess in entry.classes[1:]] == sorted(
            others, key=lambda name: -next(g.probability for g in entry.classes if g.name == name)
        )
        wanted = [("gradcam", name) for name in (predicted, *others)]
        wanted += [("spatial", None)] + [("gradcam-features", name) for name in (predicted, *others)]
        assert [(shown.kind, shown.class_name) for shown in entry.shown] == wanted
        for shown, heat in zip(entry.shown, maps, strict=True):
            assert shown.empty == (not (heat > 0).any())
            k = torch.tensor([NAMES.index(shown.class_name or predicted)])
            expected = explain_maps(model, pixels, k, kinds=[shown.kind])[1][shown.kind][0]
            np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-9)


def test_what_the_model_does_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    for options, message in (
        (PanelOptions(maps=("spatial",)), "map 'spatial': this baseline model has only gradcam"),
        (PanelOptions(maps=("heat",)), "map 'heat': expected gradcam"),
        (PanelOptions(classes=("auks",)), "did you mean 'auk'"),
    ):
        with pytest.raises(ValueError, match=message):
            explain_files(tiny_model("baseline"), [tmp_path / "a.png"], tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
    for dpi in (0, 29, 1201):
        with pytest.raises(ValueError, match=f"dpi={dpi}: expected 30 to 1200"):
            PanelOptions(dpi=dpi)


def test_titles_name_the_class_where_there_is_one() -> None:
    assert HeatMap("gradcam", "auk", False).title == "Grad-CAM: auk"
    assert HeatMap("spatial", None, False).title == "Attention T"


def test_a_pdf_of_the_wanted_resolution(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise().save(tmp_path / "b.png")
    options = PanelOptions(file_format="pdf", dpi=50)
    (pdf,), _ = explain_files(tiny_model(), [tmp_path / "a.png"], tmp_path, options=options)
    assert pdf.panel.name == "a.pdf" and pdf.panel.read_bytes().startswith(b"%PDF")
    coarse, _ = explain_files(
        tiny_model(), [tmp_path / "b.png"], tmp_path / "o", options=PanelOptions(dpi=50)
    )
    with Image.open(coarse[0].panel) as drawn:
        assert 3 * 100 < drawn.width < 3 * 100 + 100


def test_explained_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        noise((70, 60)).save(tmp_path / name)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    paths = [tmp_path / "a.png", broken, tmp_path / "b.png", tmp_path / "missing.png", tmp_path / "c.png"]
    model, out, calls = tiny_model(), tmp_path / "out", []
    explained, failed = explain_files(
        model, paths, out, top=2, batch_size=2, on_image=lambda done, total: calls.append((done, total))
    )
    assert calls == [(n, 5) for n in range(1, 6)]
    assert [entry.path.name for entry in explained] == ["a.png", "b.png", "c.png"]
    assert [failure.path.name for failure in failed] == ["broken.jpg", "missing.png"]
    assert all(failure.reason.startswith("cannot be read as a picture") for failure in failed)

    transform = ImageTransform(48, model.config.mean, model.config.std)
    with Image.open(paths[0]) as image:
        expected = explain(model, transform(image)[None])
    first = explained[0]
    maps = np.load(first.maps)
    predicted = NAMES[int(expected.classes[0])]
    assert [(shown.kind, shown.class_name) for shown in first.shown] == [
        ("gradcam", predicted),
        ("spatial", None),
    ]
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps[0], expected.maps[0], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(maps[1], expected.shown["spatial"][0, 0], rtol=1e-4)
    assert isinstance(first.classes[0], Guess) and len(first.classes) == 2
    assert first.classes[0].name == NAMES[int(expected.classes[0])]
    with Image.open(first.panel) as drawn:
        assert 3 * 320 < drawn.width < 4 * 320

    record = json.loads((out / "explanations.json").read_text("utf-8"))
    assert [entry["panel"] for entry in record["explained"]] == ["a.png", "b.png", "c.png"]
    assert record["explained"][0]["classes"][0]["name"] == first.classes[0].name
    assert record["explained"][0]["shown"][1] == {"kind": "spatial", "class_name": None, "empty": False}
    assert [entry["path"] for entry in record["failed"]] == [str(paths[1]), str(paths[3])]


def test_files_of_the_same_name_do_not_replace_one_another(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "bird.png", tmp_path / "y" / "Bird.png", tmp_path / "y" / "bird-2.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        noise().save(path)
    explained, _ = explain_files(tiny_model("baseline"), paths, tmp_path / "out")
    names = [entry.panel.name for entry in explained]
    assert names == ["bird.png", "Bird-2.png", "bird-2-2.png"]
    assert len({entry.maps for entry in explained}) == 3


def test_a_panel_never_replaces_a_picture_that_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "bird.png"
    noise().save(path)
    before = path.read_bytes()
    (entry,), _ = explain_files(tiny_model(), [path], tmp_path)
    assert entry.panel.name == "bird-2.png"
    assert path.read_bytes() == before


def test_folders_are_searched_and_an_empty_one_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    noise().save(tmp_path / "in" / "b.JPG", "JPEG")
    noise().save(tmp_path / "in" / "deep" / "a.png")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    explained, failed = explain_files(tiny_model(), [tmp_path / "in", tmp_path / "empty"], tmp_path / "out")
    assert [entry.path.name for entry in explained] == ["b.JPG", "a.png"]
    assert [failure.path for failure in failed] == [tmp_path / "empty"]


def test_nothing_readable_at_all(tmp_path: Path) -> None:
    explained, failed = explain_files(tiny_model(), [tmp_path / "none.png"], tmp_path / "out")
    assert explained == [] and len(failed) == 1
    assert (tmp_path / "out" / "explanations.json").is_file()


@pytest.mark.parametrize(("top", "batch_size"), [(0, 1), (1, 0), (1, -3)])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, top: int, batch_size: int) -> None:
    noise().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected both to be at least 1"):
        explain_files(tiny_model(), [tmp_path / "a.png"], tmp_path / "out", top=top, batch_size=batch_size)
    assert not (tmp_path / "out").exists()
