"""Predictions of real files: the right rows, whatever lies among them and however often it is begun."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import ggam
from ggam.deploy.predictions.run import PredictionError, map_name, predict_files
from ggam.deploy.predictions.table import TableError
from ggam.deploy.predictor import Predictor, TorchPredictor, open_predictor

NAMES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    ggam.save_model(
        ggam.create_model("test_resnet", class_names=NAMES, pretrained=False, image_size=32), folder
    )
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return open_predictor(model, device="cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine pictures of noise in two folders."""
    rng = np.random.default_rng(0)
    for number in range(9):
        file = tmp_path / "in" / ("a" if number < 5 else "b") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
    return tmp_path / "in"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_say_what_the_model_says(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    seen: list[int] = []
    done = predict_files(
        predictor,
        [str(pictures)],
        out,
        top=2,
        batch_size=4,
        workers=0,
        on_batch=lambda s: seen.append(s.predicted),
    )
    assert (done.predicted, done.skipped, done.unreadable, seen) == (9, 0, 0, [4, 8, 9])
    rows = read(out)
    assert [Path(row["path"]).stem for row in rows] == list("012345678")
    for row in rows:
        with Image.open(row["path"]) as image:
            expected = predictor.predict(predictor.transform(image)[None]).probabilities[0]
        order = expected.argsort()[::-1]
        assert [row["class_1"], row["class_2"]] == [NAMES[order[0]], NAMES[order[1]]]
        assert float(row["probability_1"]) == pytest.approx(expected[order[0]], rel=1e-4)
    assert "class_3" not in rows[0]


def test_processes_change_nothing_but_the_speed(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        predict_files(predictor, [str(pictures)], tmp_path / f"{workers}.csv", workers=workers, batch_size=2)
    assert (tmp_path / "0.csv").read_text() == (tmp_path / "2.csv").read_text()


def test_what_cannot_be_read_is_listed_and_tried_again(
    predictor: Predictor, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    good = (pictures / "a/2.png").read_bytes()
    (pictures / "a/2.png").write_bytes(good[:200])
    (pictures / "a/x.jpg").write_bytes(b"")
    (pictures / "b/y.gif").write_text("not a picture, \n at all")
    done = predict_files(predictor, [str(pictures)], out, batch_size=3, workers=0)
    assert (done.predicted, done.unreadable) == (8, 3)
    assert [Path(entry.path).name for entry in done.examples] == ["2.png", "x.jpg", "y.gif"]
    assert all("\n" not in entry.reason and entry.path not in entry.reason for entry in done.examples)
    assert [row["path"] for row in read(done.unreadable_file)] == [entry.path for entry in done.examples]

    (pictures / "a/2.png").write_bytes(good)
    again = predict_files(predictor, [str(pictures)], out, workers=0)
    assert (again.predicted, again.skipped, again.unreadable) == (1, 8, 2)
    (pictures / "a/x.jpg").unlink()
    (pictures / "b/y.gif").unlink()
    last = predict_files(predictor, [str(pictures)], out, workers=0)
    assert (last.predicted, last.skipped) == (0, 9)
    assert not last.unreadable_file.exists()
    assert sorted(Path(row["path"]).stem for row in read(out)) == list("012345678")


def test_maps_lie_under_their_pictures_path(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out, maps = tmp_path / "p.jsonl", tmp_path / "maps"
    predict_files(predictor, [str(pictures)], out, maps=maps, workers=0)
    picture = pictures / "b/7.png"
    target = maps / picture.relative_to(picture.anchor)
    with Image.open(picture) as image:
        expected = predictor.predict(predictor.transform(image)[None]).maps
    assert expected is not None
    np.testing.assert_allclose(np.load(f"{target}.npy"), expected[0], atol=1e-5)
    with Image.open(f"{target}.png") as overlay:
        assert (overlay.size, overlay.mode) == ((32, 32), "RGB")
    assert len(list(maps.rglob("*.png"))) == 9


def test_map_names_stay_in_their_folder() -> None:
    assert map_name("../../a/./b.jpg") == Path("__/__/a/b.jpg")
    assert map_name("/x/b.jpg") == Path("x/b.jpg")


def test_other_settings_do_not_go_on(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    predict_files(predictor, [str(pictures)], out, top=2, workers=0)
    with pytest.raises(TableError, match=r"another top \(2, now 1\)"):
        predict_files(predictor, [str(pictures)], out, top=1, workers=0)
    with pytest.raises(TableError, match=r"another maps \(False, now True\)"):
        predict_files(predictor, [str(pictures)], out, top=2, maps=tmp_path / "maps", workers=0)


def test_what_makes_no_sense_is_refused(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    with pytest.raises(PredictionError, match="top=0"):
        predict_files(predictor, [str(pictures)], out, top=0)
    with pytest.raises(PredictionError, match=r"--maps .*: lies in .*in"):
        predict_files(predictor, [str(pictures)], out, maps=pictures / "maps")
    assert not out.exists()


def test_a_broken_model_predicts_nothing(model: Path, pictures: Path, tmp_path: Path) -> None:
    broken = ggam.load_model(model)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    predictor = TorchPredictor(broken, device=torch.device("cpu"))
    with pytest.raises(PredictionError, match=r"0.png: the model's logits are not finite"):
        predict_files(predictor, [str(pictures)], tmp_path / "p.csv", workers=0)


SCRIPT = """
import sys, time
from pathlib import Path
from ggam.deploy.predictions.run import predict_files
from ggam.deploy.predictor import open_predictor

def slowly(summary):
    print(summary.predicted, flush=True)
    time.sleep(0.2)

model, pictures, out = sys.argv[1:]
predictor = open_predictor(model, device="cpu")
predict_files(predictor, [pictures], Path(out), batch_size=1, workers=1, on_batch=slowly)
"""


def test_killed_at_once_and_gone_on_with(
    model: Path, predictor: Predictor, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, model, pictures, out], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 3:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    done = predict_files(predictor, [str(pictures)], out, workers=0)
    assert done.skipped in (3, 4)
    assert done.skipped + done.predicted == 9
    assert [Path(path).stem for path in parquet.read_table(out)["path"].to_pylist()] == list("012345678")


@pytest.mark.slow
def test_memory_stays_flat(predictor: Predictor, tmp_path: Path) -> None:
    """Twenty thousand pictures take no more memory than the first five thousand."""
    import psutil

    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "0.png")
    for number in range(1, 20_000):
        os.link(folder / "0.png", folder / f"{number}.png")
    used: list[int] = []
    process = psutil.Process()
    predict_files(
        predictor,
        [str(folder)],
        tmp_path / "p.csv",
        batch_size=100,
        workers=0,
        on_batch=lambda summary: used.append(process.memory_info().rss),
    )
    assert len(used) == 200
    assert max(used[50:]) - max(used[:50]) < 10 * 2**20
