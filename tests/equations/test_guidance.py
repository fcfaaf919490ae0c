"""Eq. (5) and (6): divergence, targets and their sum, against loops, hand-computed numbers and gradcheck."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import reference
from ggam.equations.guidance import (
    Divergence,
    GGAMLoss,
    Target,
    guidance_target,
    normalized_entropy,
    one_way_kl,
    spatial_guidance,
    symmetric_kl,
)

TARGETS: tuple[Target, ...] = get_args(Target)
NORMALISED: tuple[Target, ...] = tuple(name for name in TARGETS if name != "sigmoid-unnormalized")
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)


def distribution(batch: int, channels: int, seed: int = 0, sharpness: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, channels, generator=generator, dtype=torch.float64)
    return (scores * sharpness).softmax(dim=1)


def gaussian(batch: int, channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, generator=generator, dtype=torch.float64)


def test_divergences_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    # ½ (½ - ¼)(ln 2) + ½ (½ - ¾)(ln ⅔) = ⅛ ln 3, and ½ ln 2 + ½ ln ⅔ = ½ ln 4/3.
    assert symmetric_kl(p, q).item() == pytest.approx(math.log(3) / 8, rel=1e-6)
    assert one_way_kl(p, q).item() == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)


def test_divergences_equal_the_loops() -> None:
    p, q = distribution(4, 7), distribution(4, 7, seed=1)
    for row in range(4):
        ps, qs = p[row].tolist(), q[row].tolist()
        assert symmetric_kl(p, q)[row].item() == pytest.approx(reference.symmetric_kl(ps, qs), rel=1e-12)
        assert one_way_kl(p, q)[row].item() == pytest.approx(reference.kl(ps, qs), rel=1e-12)


def test_eq_5_also_holds_where_the_target_does_not_sum_to_one() -> None:
    p, q = distribution(1, 5), gaussian(1, 5).sigmoid()
    wanted = reference.symmetric_kl(p[0].tolist(), q[0].tolist())
    assert symmetric_kl(p, q).item() == pytest.approx(wanted, rel=1e-12)


def test_gradcheck_of_the_divergences() -> None:
    p, q = distribution(2, 4).requires_grad_(), distribution(2, 4, seed=1).requires_grad_()
    assert gradcheck(symmetric_kl, (p, q))
    assert gradcheck(one_way_kl, (p, q))


shapes = {"batch": st.integers(1, 4), "channels": st.integers(1, 12), "seed": st.integers(0, 2**31)}


@settings(max_examples=60)
@given(**shapes, sharpness=st.floats(0.1, 500))
def test_symmetric_kl_is_a_distance_in_the_loose_sense(
    batch: int, channels: int, seed: int, sharpness: float
) -> None:
    p = distribution(batch, channels, seed, sharpness)
    q = distribution(batch, channels, seed + 1, sharpness)
    forth = symmetric_kl(p, q)
    assert forth.isfinite().all() and (forth >= 0).all()
    assert torch.equal(forth, symmetric_kl(q, p))
    assert torch.equal(symmetric_kl(p, p), torch.zeros(batch, dtype=torch.float64))
    apart = (p - q).abs().amax(dim=1) > 1e-6
    assert (forth[apart] > 0).all()
    assert (one_way_kl(p, q) >= -1e-12).all()


@pytest.mark.parametrize("name", TARGETS)
def test_targets_equal_the_loops(name: Target) -> None:
    beta = gaussian(3, 9)
    target = guidance_target(beta, name)
    for row in range(3):
        assert target[row].tolist() == pytest.approx(reference.target(beta[row].tolist(), name), rel=1e-12)


def test_targets_by_hand() -> None:
    beta = torch.tensor([[0.0, math.log(3)]])
    by_hand = {
        "sigmoid-unnormalized": [0.5, 0.75],
        "sigmoid": [0.4, 0.6],
        "softmax": [0.25, 0.75],
        "uniform": [0.5, 0.5],
        # z = (-1, 1), and sigmoid(-1) + sigmoid(1) = 1
        "standardized": [1 / (1 + math.e), math.e / (1 + math.e)],
    }
    for name, wanted in by_hand.items():
        target = guidance_target(beta, name)  # pyright: ignore[reportArgumentType]
        assert target[0].tolist() == pytest.approx(wanted, rel=1e-6), name


@settings(max_examples=60)
@given(**shapes, size=st.sampled_from([1e-30, 1e-5, 1.0, 1e3, 1e30]), name=st.sampled_from(NORMALISED))
def test_targets_are_distributions(batch: int, channels: int, seed: int, size: float, name: Target) -> None:
    target = guidance_target(size * gaussian(batch, channels, seed), name)
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(dim=1), torch.ones(batch, dtype=torch.float64))


@settings(max_examples=60)
@given(**shapes, scale=st.floats(1e-20, 1e20), shift=st.floats(-10, 10))
def test_standardized_target_is_blind_to_scale_and_shift(
    batch: int, channels: int, seed: int, scale: float, shift: float
) -> None:
    """A saturating logit makes β small all over; the guidance must not fade with it."""
    beta = gaussian(batch, channels, seed)
    wanted = guidance_target(beta)
    torch.testing.assert_close(guidance_target(scale * beta), wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(guidance_target(beta + shift), wanted, rtol=1e-6, atol=1e-9)


def test_scale_is_taken_out_in_float32_too() -> None:
    beta = gaussian(2, 512).float()
    wanted = guidance_target(beta)
    for scale in (1e-30, 1e-12, 1e12, 1e30):
        torch.testing.assert_close(guidance_target(beta * scale), wanted, rtol=1e-4, atol=1e-8)


def test_standardized_target_keeps_the_order_of_the_channels_and_is_bounded() -> None:
    beta = gaussian(4, 64)
    beta[:, 7] = 1e6  # one outlier cannot take the whole target: softmax(z) would give it 0.95
    target = guidance_target(beta)
    assert (target.argmax(dim=1) == 7).all() and (target[:, 7] < 0.04).all()
    assert torch.equal(guidance_target(gaussian(4, 64)).argsort(dim=1), gaussian(4, 64).argsort(dim=1))


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, -3.0, 1e30])
@pytest.mark.parametrize("name", NORMALISED)
def test_a_constant_beta_gives_a_uniform_target(name: Target, value: float) -> None:
    target = guidance_target(torch.full((2, 300), value), name)
    torch.testing.assert_close(target, torch.full((2, 300), 1 / 300))


def test_rounding_noise_is_not_blown_up() -> None:
    beta = torch.full((1, 100), 1.0)
    beta[0, :50] += torch.finfo(torch.float32).eps
    torch.testing.assert_close(guidance_target(beta), torch.full((1, 100), 0.01))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("value", [-1e4, -1e30, 1e4, 1e30])
def test_huge_beta_gives_finite_targets(name: Target, value: float) -> None:
    for beta in (torch.full((1, 4), value), torch.tensor([[value, 0.0, 1.0, -value]])):
        target = guidance_target(beta, name)
        assert target.isfinite().all() and (target >= 0).all()
        assert symmetric_kl(torch.full((1, 4), 0.25), target).isfinite().all()


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_detached_and_in_float32(name: Target) -> None:
    target = guidance_target(gaussian(2, 4).bfloat16().requires_grad_(), name)
    assert not target.requires_grad and target.dtype == torch.float32


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", TARGETS)
def test_loss_equals_the_loops(name: Target, divergence: Divergence) -> None:
    logits, channel, beta = gaussian(3, 4), distribution(3, 6), gaussian(3, 6, seed=2)
    labels = torch.tensor([3, 0, 2])
    terms = GGAMLoss(2.5, target=name, divergence=divergence)(logits, labels, channel, beta)
    wanted = reference.total_loss(
        logits.tolist(), labels.tolist(), channel.tolist(), beta.tolist(), 2.5, name, divergence
    )
    assert [term.item() for term in terms] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", TARGETS)
def test_gradcheck_of_the_loss(name: Target, divergence: Divergence) -> None:
    loss = GGAMLoss(0.7, target=name, divergence=divergence)
    labels, beta = torch.tensor([3, 0]), gaussian(2, 5, seed=2)

    def total(logits: Tensor, scores: Tensor) -> Tensor:
        return loss(logits, labels, scores.softmax(dim=1), beta).total

    assert gradcheck(total, (gaussian(2, 4).requires_grad_(), gaussian(2, 5, seed=1).requires_grad_()))


def test_no_gradient_flows_through_beta() -> None:
    beta = gaussian(2, 5).requires_grad_()
    terms = GGAMLoss()(gaussian(2, 3).requires_grad_(), torch.tensor([0, 1]), distribution(2, 5), beta)
    terms.total.backward()
    assert beta.grad is None


def test_symmetric_is_a_mean_and_one_way_a_sum_over_the_batch() -> None:
    logits, channel, beta, labels = gaussian(1, 3), distribution(1, 5), gaussian(1, 5), torch.tensor([0])
    twice = logits.repeat(2, 1), labels.repeat(2), channel.repeat(2, 1), beta.repeat(2, 1)
    for divergence, factor in (("symmetric", 1), ("one-way", 2)):
        loss = GGAMLoss(divergence=divergence)  # pyright: ignore[reportArgumentType]
        one, two = loss(logits, labels, channel, beta), loss(*twice)
        assert two.guidance.item() == pytest.approx(factor * one.guidance.item(), rel=1e-12)
        assert two.classification.item() == pytest.approx(one.classification.item(), rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", TARGETS)
def test_underflowing_channel_attention_gives_finite_losses_and_gradients(
    name: Target, divergence: Divergence
) -> None:
    """S = one-hot to the last bit: its logarithm must not be taken at 0."""
    scores = torch.zeros(2, 6)
    scores[:, 0] = 200
    scores[1, 1] = 200 - 88  # e⁻⁸⁸ is below the smallest normal float32
    scores.requires_grad_()
    channel = scores.softmax(dim=1)
    assert channel[0, 1] == 0
    terms = GGAMLoss(target=name, divergence=divergence)(
        torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1]), channel, gaussian(2, 6).float()
    )
    terms.total.backward()
    assert terms.total.isfinite() and scores.grad is not None and scores.grad.isfinite().all()


def test_autocast_computes_in_float32() -> None:
    logits, channel, beta = gaussian(4, 5).float(), distribution(4, 8).float(), gaussian(4, 8).float()
    labels = torch.tensor([0, 1, 2, 3])
    plain = GGAMLoss()(logits, labels, channel, beta)
    with torch.autocast("cpu", torch.bfloat16):
        same = GGAMLoss()(logits, labels, channel, beta)
        near = GGAMLoss()(logits.bfloat16(), labels, channel.bfloat16(), beta.bfloat16())
    for got, wanted, halved in zip(same, plain, near, strict=True):
        assert got.dtype == halved.dtype == torch.float32
        assert got.item() == pytest.approx(wanted.item(), rel=1e-6)
        assert halved.item() == pytest.approx(wanted.item(), rel=0.05)


def test_normalized_entropy_by_hand() -> None:
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
    assert normalized_entropy(weights).tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)
    assert normalized_entropy(torch.ones(3, 1)).tolist() == [1.0, 1.0, 1.0]


def test_errors_say_what_was_expected() -> None:
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="λ must be a number from 0 up"):
            GGAMLoss(weight)
    expected = "target='entropy': expected one of standardized, sigmoid"
    with pytest.raises(ValueError, match=expected):
        GGAMLoss(target="entropy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=expected):
        guidance_target(torch.rand(1, 2), "entropy")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected symmetric or one-way"):
        GGAMLoss(divergence="js")  # pyright: ignore[reportArgumentType]


def test_repr_shows_the_settings() -> None:
    assert repr(GGAMLoss(2.0)) == "GGAMLoss(weight=2.0, target=standardized, divergence=symmetric)"


def test_spatial_guidance_by_hand() -> None:
    # The map (0, 3, 0, 1)/4 mixed with the uniform: (1/8, 4/8, 1/8, 2/8).
    heat = torch.tensor([[[0.0, 3.0], [0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    spatial = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64, requires_grad=True)  # sums to 2
    wanted = reference.symmetric_kl([0.25] * 4, [0.125, 0.5, 0.125, 0.25])
    divergence = spatial_guidance(spatial, heat)
    assert divergence.tolist() == pytest.approx([wanted], rel=1e-12)
    divergence.sum().backward()
    assert heat.grad is None
    assert spatial.grad is not None and spatial.grad[0, 0, 0, 1] < 0 < spatial.grad[0, 0, 0, 0]


def test_spatial_guidance_of_an_empty_map_asks_for_a_uniform_t() -> None:
    spatial = distribution(2, 9).reshape(2, 1, 3, 3).requires_grad_()
    divergence = spatial_guidance(spatial, torch.zeros(2, 3, 3, dtype=torch.float64))
    uniform = [1 / 9] * 9
    wanted = [reference.symmetric_kl(row.flatten().tolist(), uniform) for row in spatial.detach()]
    assert divergence.tolist() == pytest.approx(wanted, rel=1e-9)
    assert gradcheck(lambda t: spatial_guidance(t, torch.ones(2, 3, 3, dtype=torch.float64)), (spatial,))
