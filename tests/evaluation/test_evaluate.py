"""The pass over a data set: what is counted, what is refused, what is left as it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ggam import Output, create_model, load_dataset
from ggam.backbones.build import Backbone, Features
from ggam.data.records import DataError, FineGrainedDataset, Sample
from ggam.data.transforms import ImageTransform
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.evaluate import evaluate
from ggam.methods.base import FineGrainedModel, ModelConfig

NAMES = ("blue", "green", "red")
PLAIN = ImageTransform(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class ColourModel(FineGrainedModel):
    """Says the colour that a picture has most of: logits are the means of blue, green and red."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        pool = nn.Conv2d(3, 3, 8, stride=8, groups=3, bias=False)
        nn.init.constant_(pool.weight, 1 / 64)
        config = ModelConfig("colours", None, None, 32, names, (0.0,) * 3, (1.0,) * 3)
        super().__init__(Backbone(pool, {"last": 3}), config, None)

    def head(self, features: Features, images: Tensor) -> Output:
        last = features["last"]
        return Output(last.mean(dim=(2, 3)).flip(1), last, last, {})


@pytest.fixture
def test_split(squares: Path) -> FineGrainedDataset:
    return load_dataset(squares, split="test").with_transform(PLAIN)


def test_every_picture_counts_whatever_the_batch_size(test_split: FineGrainedDataset) -> None:
    calls: list[tuple[int, int]] = []
    report = evaluate(ColourModel(), test_split, batch_size=5, on_batch=lambda a, b: calls.append((a, b)))
    assert calls == [(5, 12), (10, 12), (12, 12)]
    assert report.top1 == 1.0
    assert report.maps is None
    assert report == evaluate(ColourModel(), test_split, batch_size=64)
    assert [p.path for p in report.predictions][:2] == ["test/blue/0.png", "test/blue/1.png"]
    assert report.class_names == NAMES


def test_probabilities_are_calibrated_and_the_loss_is_of_the_logits_as_trained(
    test_split: FineGrainedDataset,
) -> None:
    plain, warm = ColourModel(), ColourModel()
    warm.config = replace(warm.config, temperature=0.05)
    before, after = evaluate(plain, test_split, batch_size=5), evaluate(warm, test_split, batch_size=5)
    labels = torch.tensor([sample.label for sample in test_split.samples])
    logits = torch.stack([test_split[i][0].mean(dim=(1, 2)).flip(0) for i in range(12)]).double()
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert before.loss == pytest.approx(expected, rel=1e-5) == after.loss
    for temperature, report in ((1.0, before), (0.05, after)):
        shares = (logits / temperature).softmax(dim=1)
        np.testing.assert_allclose([p.probability for p in report.predictions], shares.amax(dim=1), rtol=1e-5)
        # All are right, so the error is how far the mean probability is from 1.
        assert report.ece == pytest.approx(1 - shares.amax(dim=1).mean().item(), abs=1e-6)
        assert report.uncalibrated_ece == pytest.approx(before.ece, abs=1e-6)
        assert report.temperature == temperature
    assert after.ece < before.ece
    assert [p.rank for p in after.predictions] == [p.rank for p in before.predictions]


def test_wrong_labels_are_counted_as_mistakes(test_split: FineGrainedDataset) -> None:
    swapped = [Sample(s.path, {0: 1, 1: 0, 2: 2}[s.label]) for s in test_split.samples]
    dataset = FineGrainedDataset(
        swapped, NAMES, root=test_split.root, layout="folder", split="test", transform=PLAIN
    )
    report = evaluate(ColourModel(), dataset)
    assert report.confusion.tolist() == [[0, 4, 0], [4, 0, 0], [0, 0, 4]]
    assert report.top1 == pytest.approx(1 / 3)


def test_maps_change_nothing_and_are_those_of_explain(test_split: FineGrainedDataset) -> None:
    model = create_model(nn.Conv2d(3, 4, 8, stride=8), class_names=NAMES, image_size=32)
    plain, mapped = evaluate(model, test_split), evaluate(model, test_split, maps=True, batch_size=7)
    assert [p.predicted for p in plain.predictions] == [p.predicted for p in mapped.predictions]
    assert mapped.loss == pytest.approx(plain.loss, rel=1e-5)
    assert mapped.maps is not None and mapped.maps.shape == (12, 4, 4)
    # Grad-CAM of a colour model: y_k is a mean, so β is 1/(HW) for channel k, and the map that channel.
    report = evaluate(ColourModel(), test_split, maps=True)
    assert report.maps is not None
    for index, prediction in enumerate(report.predictions):
        channel = test_split[index][0][2 - prediction.predicted]
        cells = channel.reshape(4, 8, 4, 8).mean(dim=(1, 3))
        np.testing.assert_allclose(report.maps[index], cells / 16, rtol=1e-4)


def test_the_mode_of_the_model_and_its_statistics_are_left_alone(test_split: FineGrainedDataset) -> None:
    model = create_model(nn.Conv2d(3, 4, 8, stride=8), class_names=NAMES, image_size=32).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, test_split, maps=True)
    evaluate(model, test_split)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bf16_is_close_to_fp32(test_split: FineGrainedDataset) -> None:
    report = evaluate(ColourModel(), test_split, precision="bf16", device="cpu")
    assert report.top1 == 1.0
    assert report.loss == pytest.approx(evaluate(ColourModel(), test_split).loss, abs=1e-2)


def test_workers_read_the_same_pictures(test_split: FineGrainedDataset) -> None:
    assert evaluate(ColourModel(), test_split, workers=1) == evaluate(ColourModel(), test_split)


def test_data_that_does_not_fit_the_model_is_refused(test_split: FineGrainedDataset) -> None:
    with pytest.raises(EvaluationError, match="has 3 classes, the model 2"):
        evaluate(ColourModel(("blue", "green")), test_split)
    with pytest.raises(EvaluationError, match="'green' stands where the model has 'red'"):
        evaluate(ColourModel(("blue", "red", "green")), test_split)
    assert evaluate(ColourModel(("0", "1", "2")), test_split).top1 == 1.0  # a model without names


def test_no_pictures_or_no_fitting_transform_is_refused(test_split: FineGrainedDataset) -> None:
    with pytest.raises(EvaluationError, match="no pictures"):
        evaluate(ColourModel(), test_split.subset([]))
    with pytest.raises(EvaluationError, match="transform"):
        evaluate(ColourModel(), test_split.with_transform(None))
    augmenting = ImageTransform(32, PLAIN.mean, PLAIN.std, augment=True)
    with pytest.raises(EvaluationError, match="augment=False"):
        evaluate(ColourModel(), test_split.with_transform(augmenting))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named(test_split: FineGrainedDataset, tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    dataset = FineGrainedDataset(
        [*test_split.samples, Sample(broken, 0)],
        NAMES,
        root=test_split.root,
        layout="folder",
        split="test",
        transform=PLAIN,
    )
    with pytest.raises(DataError) as caught:
        evaluate(ColourModel(), dataset, workers=workers)
    assert str(caught.value).startswith(f"{broken}: cannot be read as a picture")
    assert "\n" not in str(caught.value)
