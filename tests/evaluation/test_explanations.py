"""Everything over a split: the same whatever the batches, controls that behave, files that are whole."""

import csv
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from ggam import cli, create_model, explain, load_dataset, save_model
from ggam.data.birds.dataset import synthesize
from ggam.data.records import FineGrainedDataset, Sample
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.estimates import CONTROLS
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.explanation_report import ExplanationReport, refuse_others
from ggam.evaluation.explanations import evaluate_explanations, planned
from ggam.evaluation.localization import localization_metrics
from ggam.evaluation.metrics import FAITHFULNESS, METRICS
from ggam.methods.base import FineGrainedModel

KINDS = ("gradcam", "gradcam-features", "spatial", "channel")
OF_MAPS = {*METRICS} - {"top1", "top5", "macro", "loss"}
LOCAL = OF_MAPS - {*FAITHFULNESS}


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explanations") / "birds"
    synthesize(root, classes=3, train_per_class=1, test_per_class=4, image_size=64)
    return root


def small_model(names: tuple[str, ...], method: str = "ggam") -> FineGrainedModel:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    )
    return create_model(backbone, class_names=names, method=method, image_size=48).eval()


@pytest.fixture(scope="module")
def birds(birds_folder: Path) -> FineGrainedDataset:
    test = load_dataset(birds_folder, split="test")
    return test.with_transform(small_model(test.class_names).config.transform())


@pytest.fixture(scope="module")
def model(birds: FineGrainedDataset) -> FineGrainedModel:
    return small_model(birds.class_names)


@pytest.fixture(scope="module")
def report(model: FineGrainedModel, birds: FineGrainedDataset) -> ExplanationReport:
    return evaluate_explanations(model, birds, perturbed=2, batch_size=5, seed=3)


def test_every_metric_is_taken_of_every_map_and_control(report: ExplanationReport) -> None:
    assert tuple(report.values) == (*KINDS, *CONTROLS)
    assert set(report.metrics) == OF_MAPS - {"road"}
    for metrics in report.values.values():
        for metric, values in metrics.items():
            assert values.shape == (12,)
            known = values[~np.isnan(values)]
            assert ((known >= 0) & (known <= 1)).all(), metric
            assert len(known) == 2 or metric in {*LOCAL, "empty"}
    assert report.agreement is not None and report.agreement.shape == (12,)
    assert set(report.similarity) == {
        "head",
        "top quarter",
        "top half",
        "top three quarters",
        "whole backbone",
    }
    assert {kind: maps.shape for kind, maps in report.maps.items()} == dict.fromkeys(KINDS, (12, 6, 6))


def test_the_maps_and_their_metrics_are_those_of_a_plain_evaluation(
    report: ExplanationReport, model: FineGrainedModel, birds: FineGrainedDataset
) -> None:
    plain = evaluate(model, birds, maps=True)
    assert plain.maps is not None
    np.testing.assert_allclose(report.maps["gradcam"], plain.maps, atol=1e-6)
    assert [p.predicted for p in report.predictions] == [p.predicted for p in plain.predictions]
    for key, value in localization_metrics(plain.maps, birds).items():
        kind, metric = (
            ("centre", key.removeprefix("centre_")) if key.startswith("centre_") else ("gradcam", key)
        )
        assert np.nanmean(report.values[kind][metric]) == pytest.approx(value), key


def test_the_batches_change_nothing(
    report: ExplanationReport, model: FineGrainedModel, birds: FineGrainedDataset
) -> None:
    again = evaluate_explanations(model, birds, perturbed=2, batch_size=12, seed=3)
    for kind, metrics in report.values.items():
        for metric, values in metrics.items():
            np.testing.assert_allclose(
                again.values[kind][metric], values, atol=1e-5, err_msg=f"{kind} {metric}"
            )
    for stage, kinds in report.similarity.items():
        for kind, values in kinds.items():
            np.testing.assert_allclose(again.similarity[stage][kind], values, atol=1e-5)
    assert again.rivals == report.rivals


def test_rivals_are_what_a_picture_is_most_taken_for(
    report: ExplanationReport, model: FineGrainedModel, birds: FineGrainedDataset
) -> None:
    logits = explain(model, torch.stack([birds[i][0] for i in range(12)])).logits
    for row, (prediction, rival) in enumerate(zip(report.predictions, report.rivals, strict=True)):
        order = [k for k in logits[row].argsort(descending=True).tolist() if k != prediction.label]
        assert rival == order[0]


def test_a_fraction_measures_the_same_pictures_alike(
    report: ExplanationReport, model: FineGrainedModel, birds: FineGrainedDataset
) -> None:
    done: list[tuple[int, int]] = []
    half = evaluate_explanations(
        model, birds, fraction=0.5, perturbed=0, seed=3, on_batch=lambda a, b: done.append((a, b))
    )
    assert half.settings.pictures == len(half.predictions) == 6
    assert done == [(6, 6)]
    whole = {prediction.path: row for row, prediction in enumerate(report.predictions)}
    rows = [whole[prediction.path] for prediction in half.predictions]
    for kind in report.values:
        np.testing.assert_allclose(
            half.values[kind]["energy"], report.values[kind]["energy"][rows], atol=1e-6
        )
    assert half.metrics == tuple(metric for metric in METRICS if metric in LOCAL)
    assert half.forgetting() == []


def test_progress_ends_where_it_said(model: FineGrainedModel, birds: FineGrainedDataset) -> None:
    done: list[tuple[int, int]] = []
    evaluate_explanations(
        model,
        birds,
        kinds=["spatial"],
        perturbed=1,
        with_road=True,
        batch_size=8,
        on_batch=lambda a, b: done.append((a, b)),
    )
    assert done[-1][0] == done[-1][1]
    assert all(total == done[-1][1] for _, total in done)


def test_a_plain_model_has_grad_cam_only(birds: FineGrainedDataset) -> None:
    plain = small_model(birds.class_names, "baseline")
    found = evaluate_explanations(plain, birds, perturbed=0)
    assert tuple(found.values) == ("gradcam", *CONTROLS)
    assert found.agreement is None
    with pytest.raises(ValueError, match="spatial"):
        evaluate_explanations(plain, birds, kinds=["spatial"])


def test_pictures_of_which_nothing_is_known_still_have_faithfulness(
    birds: FineGrainedDataset, model: FineGrainedModel
) -> None:
    bare = [Sample(sample.path, sample.label) for sample in birds.samples]
    plain = FineGrainedDataset(
        bare, birds.class_names, root=birds.root, layout="folder", split="test", transform=birds.transform
    )
    found = evaluate_explanations(model, plain, kinds=["gradcam"], perturbed=2)
    assert found.metrics == ("insertion", "deletion", "average_drop", "increase")
    assert "| insertion" in found.markdown()


def test_files_hold_what_was_measured(report: ExplanationReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    summary = json.loads((tmp_path / "explanations.json").read_text())
    assert summary["metrics"]["energy"]["kinds"]["gradcam"]["mean"] == pytest.approx(
        np.nanmean(report.values["gradcam"]["energy"])
    )
    assert set(summary["per_class"]) == set(report.class_names)
    assert set(summary["parts"]["spatial"]) == set(report.part_names)
    with (tmp_path / "explanations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 6
    for row in rows:
        picture = [prediction.path for prediction in report.predictions].index(row["path"])
        for metric in report.metrics:
            value = report.values[row["kind"]][metric][picture]
            assert (
                row[metric] == "" if np.isnan(value) else float(row[metric]) == pytest.approx(value, rel=1e-4)
            )
    with np.load(tmp_path / "maps.npz") as maps:
        assert sorted(maps) == sorted([*KINDS, "paths"])
        np.testing.assert_array_equal(maps["spatial"], report.maps["spatial"])
        assert maps["paths"][0] == report.predictions[0].path
    table = (tmp_path / "explanations.md").read_text()
    assert "MaxBoxAccV2 ↑ | 12 |" in table and "| whole backbone |" in table
    assert all("nan" not in text for text in (table, json.dumps(summary).lower()))


def test_other_explanations_are_not_overwritten(report: ExplanationReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    report.write(tmp_path)  # the same again
    other = replace(report, settings=replace(report.settings, pictures=7))
    with pytest.raises(EvaluationError, match="pictures 12 there, 7 now"):
        other.write(tmp_path)
    (tmp_path / "explanations.json").write_text("{}")
    with pytest.raises(EvaluationError, match="choose another folder"):
        refuse_others(tmp_path, report.settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "fraction 0"),
        ({"fraction": 1.1}, "above 0"),
        ({"perturbed": -1}, "0 pictures or more"),
    ],
)
def test_bad_numbers_are_refused(
    model: FineGrainedModel, birds: FineGrainedDataset, arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        planned(model, birds, **arguments)  # pyright: ignore[reportArgumentType]


def test_the_command_prints_the_table_and_refuses_to_overwrite(
    model: FineGrainedModel,
    birds_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    tiny = create_model(
        "test_resnet", class_names=model.config.class_names, method="ggam", pretrained=False, image_size=32
    )
    save_model(tiny, tmp_path / "model")
    command = f"ggam evaluate {tmp_path / 'model'} {birds_folder} --out {tmp_path / 'out'} --workers 0"
    more = "--explanations --perturbed 1 --precision fp32"
    for extra, code in ((more, 0), (f"{more} --fraction 0.5", 2)):
        monkeypatch.setattr(sys, "argv", [*command.split(), *extra.split()])
        try:
            cli.main()
            assert code == 0
        except SystemExit as stop:
            assert (stop.code or 0) == code
    captured = capsys.readouterr()
    assert "heat on the object" in captured.out
    assert "a row without * says nothing here" in captured.out
    assert "pictures 12 there, 6 now" in captured.err
    assert (tmp_path / "out" / "explanations.md").is_file()


@pytest.mark.slow
def test_memory_stays_flat_over_two_hundred_batches(
    model: FineGrainedModel, birds: FineGrainedDataset
) -> None:
    many = birds.subset([i % 12 for i in range(400)])
    process, memory, tensors = psutil.Process(), [], []

    def watch(done: int, total: int) -> None:
        memory.append(process.memory_info().rss)
        if done % 100 == 0:
            tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))

    evaluate_explanations(model, many, kinds=["gradcam"], perturbed=0, batch_size=2, on_batch=watch)
    assert len(memory) == 200
    assert len(set(tensors)) == 1, "tensors are kept from batch to batch"
    grown = max(memory[-20:]) - max(memory[:50])
    assert grown < 8 * 2**20, f"{grown / 2**20:.1f} MiB in 150 batches"
