"""The crop that a model saw, and the files that `explain_files` writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ggam import create_model, explain
from ggam.data.records import DataError, Sample
from ggam.data.transforms import ImageTransform
from ggam.methods.base import FineGrainedModel
from ggam.panels import Guess, crop_of, explain_files, guesses_of, shown_maps

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
    logits = torch.tensor([0.0, 2.0, 1.0]).log_softmax(0)
    guesses = guesses_of(logits, NAMES[:3], 2)
    assert [guess.name for guess in guesses] == ["booby", "crake"]
    assert guesses[0].probability == pytest.approx(logits.exp()[1].item())
    assert len(guesses_of(logits, NAMES[:3], 99)) == 3


def test_attention_is_shown_only_where_it_is_at_work() -> None:
    images = torch.zeros(1, 3, 48, 48)
    for model, names in (
        (tiny_model(), ["gradcam", "attention"]),
        (tiny_model(spatial=False), ["gradcam"]),
        (tiny_model("baseline"), ["gradcam"]),
    ):
        assert list(shown_maps(model, explain(model, images))) == names


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
    assert expected.attention is not None
    first = explained[0]
    maps = np.load(first.maps)
    assert first.map_names == ("gradcam", "attention")
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps[0], expected.maps[0], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(maps[1], expected.attention.spatial[0, 0], rtol=1e-4)
    assert isinstance(first.classes[0], Guess) and len(first.classes) == 2
    assert first.classes[0].name == NAMES[int(expected.classes[0])]
    with Image.open(first.panel) as drawn:
        assert drawn.width == 3 * 320 + 4 * 16

    record = json.loads((out / "explanations.json").read_text("utf-8"))
    assert [entry["panel"] for entry in record["explained"]] == ["a.png", "b.png", "c.png"]
    assert record["explained"][0]["classes"][0]["name"] == first.classes[0].name
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
