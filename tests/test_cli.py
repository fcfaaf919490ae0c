"""The command line as a user meets it: real commands, real files, exit codes and one-line errors."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from cyclopts import App
from PIL import Image

from conftest import Run
from ggam import cli
from ggam.data.birds.dataset import synthesize
from ggam.data.layouts.registry import detect_layout

FLAGS = (
    "--backbone test_resnet --no-pretrained --image-size 32 --epochs 2 --batch-size 6 --lr 0.05 "
    "--backbone-lr 0.02 --workers 0 --accelerator cpu --precision fp32"
)
TRAIN = FLAGS.split()
ONE_EPOCH = FLAGS.replace("--epochs 2", "--epochs 1").split()


@pytest.fixture(scope="module")
def trained(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "ggam.cli", "train", str(squares), "--out", str(run), *TRAIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2" in done.stdout
    assert "report:" in done.stdout
    assert "Warning" not in done.stderr, done.stderr
    return run


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['ggam', '--help']\n"
        "from ggam.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in (*cli.COMMANDS, "data"):
        assert command in done.stdout
    assert time.monotonic() - start < 10, "a generous bound: --help takes a fifth of a second alone"


@pytest.mark.parametrize("command", [*cli.COMMANDS, *(f"data {name}" for name in cli.DATA_COMMANDS)])
def test_every_command_explains_each_of_its_options(ggam: Run, command: str) -> None:
    *_, name = command.split()
    module, function_name = (cli.DATA_COMMANDS if " " in command else cli.COMMANDS)[name][0].split(":")
    function = getattr(importlib.import_module(f"ggam.commands.{module}"), function_name)
    app = App(default_command=function)
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.show:
            assert argument.parameter.help, f"{command} {argument.name}"
    code, out, _ = ggam(*command.split(), "--help")
    assert code == 0
    assert "Usage" in out


def test_train_leaves_a_whole_run_directory(trained: Path) -> None:
    for name in (
        "config.yaml",
        "metrics.csv",
        "results.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "model/config.json",
        "model/model.safetensors",
        "evaluation/last/metrics.json",
        "evaluation/best/confusion.png",
        "report/index.html",
        "examples/0-1.jpg",
        "examples/1-2.jpg",
    ):
        assert (trained / name).stat().st_size > 0, name


def test_evaluate_repeats_what_training_measured(ggam: Run, trained: Path, tmp_path: Path) -> None:
    code, out, _ = ggam("evaluate", trained, "--out", tmp_path / "eval", "--workers", 0)
    assert code == 0
    again = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert again["top1"] == json.loads((trained / "results.json").read_text())["best"]["top1"]
    assert f"{100 * again['top1']:.2f}" in out
    said = " ".join(out.split())
    assert "one centre crop of 32 pixels, the shorter side resized to 43" in said
    assert "best epoch chosen on 10% of the training pictures, held out" in said


def test_evaluate_a_model_folder_on_named_data(
    ggam: Run, trained: Path, squares: Path, tmp_path: Path
) -> None:
    code, out, err = ggam("evaluate", trained / "model", squares, "--out", tmp_path / "e", "--workers", 0)
    assert (code, err) == (0, "")
    assert "protocol: unknown" in out
    code, _, err = ggam("evaluate", trained / "model")
    assert code == 2
    assert "name one" in err


def test_explain_writes_a_panel_and_maps_and_names_what_it_could_not_read(
    ggam: Run, trained: Path, squares: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    picture = squares / "test/red/0.png"
    code, out, err = ggam("explain", trained, picture, broken, "--out", tmp_path / "panels")
    assert code == 1
    assert "broken.jpg" in err
    assert "red" in out
    with Image.open(tmp_path / "panels/0.png") as panel:
        assert panel.width > 200
    assert np.load(tmp_path / "panels/0.npy").ndim == 3


def test_explanations_enter_the_report_and_stay_when_the_run_is_resumed(ggam: Run, trained: Path) -> None:
    page = trained / "report/index.html"
    assert "Whether the answer depends on it" not in page.read_text()
    code, out, err = ggam("evaluate", trained, "--explanations", "--perturbed", 2, "--workers", 0)
    assert code == 0, err
    assert "the run's report has the tables now" in " ".join(out.split())
    assert "Whether the answer depends on it" in page.read_text()
    # To resume needs only the run; examples that somebody removed do not come back.
    kept = sorted(file.name for file in (trained / "examples").iterdir())
    assert kept == [f"{label}-{number}.jpg" for label in range(3) for number in (1, 2)]
    shutil.rmtree(trained / "examples")
    code, out, err = ggam("train", "--out", trained, "--resume")
    assert code == 0, err
    assert not (trained / "examples").exists()
    assert "held out" in out
    assert "Whether the answer depends on it" in page.read_text()


def test_a_recipe_file_gives_options_and_flags_override_it(ggam: Run, squares: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "backbone: test_resnet\npretrained: false\nimage_size: 32\nepochs: 1\nmethod: baseline\n"
        "batch_size: 6\nworkers: 0\nlr: 0.03\nstage: -2\naccelerator: cpu\n"
    )
    run = tmp_path / "run"
    code, _, err = ggam("train", squares, "--out", run, "--config", recipe, "--lr", "0.01")
    assert code == 0, err
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["lr"], stored["method"], stored["stage"]) == (0.01, "baseline", -2)


def test_the_card_of_a_runs_model_folder_keeps_its_figures(ggam: Run, trained: Path) -> None:
    card = trained / "model/README.md"
    before = card.read_text()
    assert ggam("card", trained / "model")[0] == 0
    assert card.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "--out", "RUN", *TRAIN], "nowhere: no such folder"),
        (["train", "DATA", "--out", "RUN", "--bakbone", "x"], "Did you mean --backbone"),
        (["train", "DATA", "--out", "RUN", "--target", "softmx"], "Did you mean"),
        (["train", "DATA", "--out", "RUN", "--epochs", "many"], "many"),
        (["train", "DATA", "--out", "RUN", "--lr", "-1"], "lr=-1.0: expected 0 or more"),
        (["train", "DATA", "--out", "RUN", "--config", "none.yaml"], "none.yaml: no such file"),
        (["train", "DATA", "--out", "RUN", "--backbone", "resnet5"], "did you mean resnet50"),
        (["train", "DATA", "--out", "RUN", "--weights", "w.pt"], "w.pt: no such file"),
        (["train", "DATA", "--out", "RUN", "--layout", "cubs"], "layout 'cubs'"),
        (["train", "--out", "RUN", "--resume"], "nothing to resume"),
        (["trian", "DATA"], "Did you mean"),
        (["evaluate", "nowhere"], "no such folder"),
        (["evaluate", "DATA"], "holds no trained model"),
        (["explain", "nowhere", "x.jpg"], "no such folder"),
        (["data", "synthesize", "RUN", "--classes", "1"], "classes"),
        (["data", "check", "nowhere"], "no such file or folder"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(
    ggam: Run, squares: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"DATA": str(squares), "RUN": str(tmp_path / "run")}
    code, _, err = ggam(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    flat = " ".join(err.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_unknown_keys_of_a_recipe_are_answered_with_the_nearest(
    ggam: Run, squares: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("bakbone: resnet18\n")
    code, _, err = ggam("train", squares, "--out", tmp_path / "run", "--config", recipe)
    assert code == 2
    assert "did you mean backbone?" in " ".join(err.replace("│", " ").split())


def as_folders(squares: Path, to: Path) -> Path:
    return squares


def as_manifest(squares: Path, to: Path) -> Path:
    pictures = [path.relative_to(squares) for path in sorted(squares.rglob("*.png"))]
    lines = [f"{squares / path},{path.parts[1]},{path.parts[0]}" for path in pictures]
    to.write_text("\n".join(["path,label,split", *lines]) + "\n")
    return to


def as_cub(squares: Path, to: Path) -> Path:
    synthesize(to, classes=3, train_per_class=8, test_per_class=4, image_size=48)
    return to


@pytest.mark.parametrize(
    ("made", "layout", "name"),
    [(as_folders, "folder", "squares"), (as_manifest, "manifest", "list.csv"), (as_cub, "cub", "birds")],
)
def test_every_layout_is_trained_on_by_the_same_command(
    ggam: Run, squares: Path, tmp_path: Path, made: Callable[[Path, Path], Path], layout: str, name: str
) -> None:
    data, run = made(squares, tmp_path / name), tmp_path / "run"
    assert detect_layout(data) == layout
    code, out, err = ggam("train", data, "--out", run, *ONE_EPOCH)
    assert code == 0, err
    assert "report:" in out
    results = json.loads((run / "results.json").read_text())
    assert results["last"]["classes"] == 3
    assert results["pictures"]["test"] == results["last"]["pictures"] == 12


def test_a_cache_is_filled_once_and_changes_no_result(ggam: Run, squares: Path, tmp_path: Path) -> None:
    cache, states, results = tmp_path / "cache", [], []
    for run in (tmp_path / "first", tmp_path / "second"):
        code, _, err = ggam("train", squares, "--out", run, "--cache", cache, *ONE_EPOCH)
        assert code == 0, err
        states.append({path.name: path.stat().st_mtime_ns for path in cache.rglob("*.npy")})
        results.append(json.loads((run / "results.json").read_text()) | {"training_seconds": 0})
    assert states[0] == states[1]
    assert len(states[0]) == 5 * 6 + 3, "five whole batches and the validation part, no test picture"
    assert results[0] == results[1]


def test_a_run_is_not_overwritten(ggam: Run, trained: Path, squares: Path) -> None:
    before = (trained / "results.json").read_bytes()
    code, _, err = ggam("train", squares, "--out", trained, *TRAIN)
    assert code == 2
    assert "--resume" in err
    assert (trained / "results.json").read_bytes() == before


def test_the_generator_draws_what_was_asked_for(ggam: Run, tmp_path: Path) -> None:
    out = tmp_path / "birds"
    code, said, _ = ggam(
        *f"data synthesize {out} --classes 2 --train-per-class 2 --test-per-class 1 --image-size 64".split()
    )
    assert code == 0
    assert "6 pictures" in said
    assert len(list((out / "images").rglob("*.jpg"))) == 6


def test_flags_go_before_the_preset_of_the_generator(ggam: Run, tmp_path: Path) -> None:
    out = tmp_path / "birds"
    thin = "--train-per-class 1 --test-per-class 1 --image-size 32"
    code, said, _ = ggam(*f"data synthesize {out} --preset cub {thin}".split())
    assert code == 0
    assert "400 pictures" in said
    assert len((out / "classes.txt").read_text().splitlines()) == 200
    code, _, err = ggam("data", "synthesize", tmp_path / "cars", "--preset", "cars")
    assert code == 2
    assert "cub" in err
