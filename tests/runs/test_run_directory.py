"""Run directories: what is written is read again, and what is none is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ggam import create_model, save_model
from ggam.methods.base import FineGrainedModel
from ggam.runs.model_folder import CheckpointError
from ggam.runs.run import Results, Run, RunError, open_model

RESULTS = Results(
    protocol="best epoch chosen on 10% of the training pictures, held out",
    selected="best",
    epochs={"last": {"epoch": 3, "top1": 0.5}, "best": {"epoch": 2, "top1": 0.75}},
    pictures={"train": 27, "val": 3, "test": 12},
    training_seconds=12.5,
)


@pytest.fixture(scope="module")
def model() -> FineGrainedModel:
    torch.manual_seed(0)
    return create_model("test_resnet", 3, pretrained=False, image_size=32)


@pytest.fixture
def run(tmp_path: Path, model: FineGrainedModel) -> Run:
    """A finished run."""
    run = Run(tmp_path / "run")
    run.start()
    run.write_config({"data": "birds", "version": "1.0", "method": "ggam", "seed": 3})
    save_model(model, run.model_folder)
    run.write_results(RESULTS)
    return run


def test_where_the_files_lie(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    assert run == Run(tmp_path)
    places = {
        "config.yaml": run.config_file,
        "metrics.csv": run.metrics_file,
        "results.json": run.results_file,
        "checkpoints/last.ckpt": run.last_checkpoint,
        "checkpoints/best.ckpt": run.best_checkpoint,
        "model": run.model_folder,
        "model/README.md": run.card,
        "report/index.html": run.report_page,
        "examples": run.examples,
        "explanations": run.explanations,
        "evaluation/birds": run.evaluation("birds"),
    }
    assert {name: tmp_path / name for name in places} == places


def test_a_new_run_takes_a_free_place(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "one")
    run.require_new()
    run.start()
    assert run.checkpoints.is_dir() and not run.finished
    with pytest.raises(RunError, match="one is not empty: continue it with --resume, or choose another"):
        run.require_new()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file: expected a folder, or a name for a new one"):
        Run(tmp_path / "file").require_new()
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty").require_new()


def test_the_configuration_keeps_its_sections_and_their_order(tmp_path: Path) -> None:
    values = {
        "version": "1.0",
        "data": "/birds/Ελιά",
        "method": "ggam",
        "ggam": {"warmup": 2, "target": None},
    }
    run = Run(tmp_path)
    run.write_config(values)
    assert run.read_config() == values and list(run.read_config()) == list(values)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8")) == values
    assert "Ελιά" in run.config_file.read_text("utf-8")


def test_results_as_they_lie_on_disk(run: Run) -> None:
    values = json.loads(run.results_file.read_text("utf-8"))
    assert values == {
        "protocol": "best epoch chosen on 10% of the training pictures, held out",
        "selected": "best",
        "last": {"epoch": 3, "top1": 0.5},
        "best": {"epoch": 2, "top1": 0.75},
        "pictures": {"train": 27, "val": 3, "test": 12},
        "training_seconds": 12.5,
    }
    assert run.finished and run.read_results() == RESULTS
    assert run.read_results().chosen == {"epoch": 2, "top1": 0.75}


def test_epochs_may_differ_in_their_columns(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.read_epochs() == []
    run.write_epochs([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "guidance": 1.5}])
    assert run.metrics_file.read_text() == "epoch,loss,guidance\n1,0.5,\n2,0.25,1.5\n"
    rows = run.read_epochs()
    assert rows[0] == {"epoch": "1", "loss": "0.5", "guidance": ""}
    run.write_epochs([*rows, {"epoch": 3, "seconds": 4}])
    assert [row["seconds"] for row in run.read_epochs()] == ["", "", "4"]
    run.metrics_file.write_text("epoch,loss\n1\n")
    assert run.read_epochs() == [{"epoch": "1", "loss": ""}]


def test_a_model_and_the_run_that_made_it(run: Run, model: FineGrainedModel) -> None:
    for source, origin in ((run.folder, run), (str(run.folder), run), (run.model_folder, None)):
        opened, found = open_model(source)
        assert found == origin and not opened.training
        for name, value in model.state_dict().items():
            assert torch.equal(opened.state_dict()[name], value), name


def test_the_data_are_split_as_they_were(squares: Path, tmp_path: Path) -> None:
    folders = squares / "train"  # has no split of its own: the seed draws one
    names = {}
    for seed in (0, 1):
        run = Run(tmp_path / str(seed))
        run.write_config({"data": str(folders), "layout": None, "seed": seed})
        names[seed] = [[sample.path for sample in run.dataset(split).samples] for split in ("train", "test")]
        assert names[seed] == [[s.path for s in run.dataset(split).samples] for split in ("train", "test")]
        assert not {*names[seed][0]} & {*names[seed][1]}
    assert names[0] != names[1]


def _nothing(folder: Path) -> None: ...


def _file(folder: Path) -> None:
    folder.touch()


def _unfinished(folder: Path) -> None:
    Run(folder).write_config({"data": "x"})


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "nowhere",
            _nothing,
            "nowhere: no such folder; expected a run directory that ggam train made",
        ),
        ("model.onnx", _file, "model.onnx: a file; expected a run directory that ggam train made"),
        (
            "photos",
            Path.mkdir,
            "photos: not a run directory: holds no trained model; expected a run",
        ),
        ("half", _unfinished, "half: the run is not finished; continue it with ggam train --out "),
    ],
)
def test_what_is_no_finished_run_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / name)
    run = Run(tmp_path / name)
    for read in (run.read_results, run.read_model, lambda: open_model(run.folder)):
        with pytest.raises(RunError) as refusal:
            read()
        assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_text_may_be_the_id_of_a_model_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match="nor a model of the Hugging Face hub"):
        open_model("nobody/nothing")
    with pytest.raises(RunError, match="no such folder"):
        open_model(Path("nobody/nothing"))
    with pytest.raises(RunError, match="no such folder"):
        open_model("./nobody")


@pytest.mark.parametrize("content", ["{", "[]", '{"selected": "best"}', '{"selected": "x", "x": {}}', "\x00"])
def test_damaged_results(run: Run, content: str) -> None:
    run.results_file.write_text(content)
    with pytest.raises(RunError, match=r"results\.json: damaged \(\w+: .*\); ggam train with --resume"):
        run.read_results()


@pytest.mark.parametrize("content", ["- a\n", "a: {", "method: ggam\n", "data: 3\n", ""])
def test_a_damaged_configuration(run: Run, content: str) -> None:
    run.config_file.write_text(content)
    with pytest.raises(RunError, match=r"config\.yaml: damaged \(\w+: .*\); start a new run"):
        run.read_config()


def test_damaged_epochs(run: Run) -> None:
    run.metrics_file.write_bytes(b"epoch\n\xff\n")
    with pytest.raises(RunError, match=r"metrics\.csv: damaged \(UnicodeDecodeError"):
        run.read_epochs()
