"""The temperature against hand-computed values, known temperatures and degenerate pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from ggam.evaluation.calibration import calibration_error
from ggam.training.calibration import TEMPERATURES, fit_temperature


def drawn(
    temperature: float, *, pictures: int = 20000, classes: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(pictures, classes, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator).squeeze(1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.04)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.2, 5))
def test_no_other_temperature_explains_the_labels_better(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(12, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (12,), generator=generator)
    best = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / temperature, labels))

    other = min(max(best * factor, TEMPERATURES[0]), TEMPERATURES[1])
    assert (logits.argmax(1) == labels).all() or loss(best) <= loss(other) + 1e-9


def test_two_classes_by_hand() -> None:
    # Gap 2 on each of four pictures, three of them right: sigmoid(2/t) = 3/4, so t = 2 / ln 3.
    logits = torch.tensor([[2.0, 0.0]] * 4)
    assert fit_temperature(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2 / np.log(3))


def test_scaled_logits_scale_the_temperature() -> None:
    logits, labels = drawn(1.5, pictures=200)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * fit_temperature(logits, labels))


def test_all_right_all_wrong_one_class_and_nothing() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == 1
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(TEMPERATURES[1])
    assert fit_temperature(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)) == 1
    assert fit_temperature(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 1


def test_constant_logits_have_a_temperature_all_the_same() -> None:
    found = fit_temperature(torch.ones(4, 3), torch.tensor([0, 1, 2, 2]))
    assert TEMPERATURES[0] * 0.99 <= found <= TEMPERATURES[1] * 1.01


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \(2,\).*expected \(N, K\) and \(N,\)"):
        fit_temperature(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))


def test_the_fitted_temperature_lowers_the_error() -> None:
    logits, labels = drawn(3.0, pictures=4000)
    found = fit_temperature(logits[:2000], labels[:2000])

    def error(temperature: float) -> float:
        probabilities = (logits[2000:] / temperature).softmax(dim=1)
        right = probabilities.argmax(dim=1) == labels[2000:]
        return calibration_error(probabilities.max(dim=1).values.numpy(), right.numpy())

    assert error(found) < 0.04 < 0.2 < error(1.0)
