"""Rank correlation against SciPy, and models that forget from the top."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr
from torch import nn

from ggam import create_model, explain
from ggam.evaluation.agreement import STAGES, randomized, rank_correlation
from ggam.methods.base import FineGrainedModel


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), values=st.integers(2, 30))
def test_rank_correlation_is_scipys(seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, (2, 4, values))
    ours = rank_correlation(torch.from_numpy(first), torch.from_numpy(second))
    for a, b, rho in zip(first, second, ours, strict=True):
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            assert np.isnan(rho)
        else:
            assert rho == pytest.approx(float(np.asarray(spearmanr(a, b))[0]))


def test_agreement_of_channels() -> None:
    channel = torch.tensor([[0.1, 0.2, 0.7], [0.1, 0.2, 0.7], [1 / 3] * 3])
    weights = torch.tensor([[-1.0, 0.0, 9.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    found = rank_correlation(channel, weights)
    assert found[:2].tolist() == [1, -1]
    assert np.isnan(found[2])


@pytest.fixture
def model() -> FineGrainedModel:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 4, stride=4), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return create_model(nn.Sequential(*layers), num_classes=4, image_size=32)


def test_a_model_forgets_from_the_top_down(model: FineGrainedModel) -> None:
    images = torch.randn(1, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = dict(model.named_parameters())
    seen = []
    for stage, copy in randomized(model, images, seed=3):
        changed = {
            name.rsplit(".", 1)[0]
            for name, value in copy.named_parameters()
            if not torch.equal(value, own[name]) and value.numel() > 1
        }
        seen.append((stage, {name for name in changed if name.startswith("backbone")}, len(changed)))
        for name, value in copy.named_parameters():
            torch.testing.assert_close(value.flatten().sort().values, own[name].flatten().sort().values)
    assert [stage for stage, *_ in seen] == list(STAGES)
    assert not seen[0][1] and seen[0][2] > 0
    # The convolutions of the backbone, from the last to the first (BatchNorm's ones look the same shuffled).
    touched = [{int(name.rsplit(".", 1)[1]) for name in stage[1]} for stage in seen]
    assert touched[-1] == {0, 2, 5, 8}
    assert all(low <= high for low, high in pairwise(touched))
    assert 8 in touched[1] or 8 in touched[2]
    assert 0 not in touched[3]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_forgetting_is_repeatable_and_changes_the_answers(model: FineGrainedModel) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = (
        [explain(copy, images).logits for _, copy in randomized(model, images[:1])] for _ in range(2)
    )
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(first[0], explain(model, images).logits)
    assert not torch.allclose(first[-1], first[0])
