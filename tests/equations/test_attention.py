"""Eq. (1)-(3): S, T and D against the loop transcription, hand-computed numbers and gradcheck."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import reference
from ggam.equations.attention import (
    ChannelSpatialAttention,
    SpatialNorm,
    apply_spatial,
    channel_weights,
    spatial_weights,
)

NORMS: tuple[SpatialNorm, ...] = ("ratio", "softmax", "sigmoid")


def feature_map(*shape: int, signed: bool = False, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values if signed else values.relu()


def two_layers(channels: int, hidden: int) -> tuple[Tensor, Tensor]:
    return feature_map(hidden, channels, signed=True, seed=1), feature_map(
        channels, hidden, signed=True, seed=2
    )


def test_channel_weights_by_hand() -> None:
    # GAP(A) = (2, 1); W₁·GAP = 3; W₂·ReLU(3) = (3, 0); softmax = e³/(e³ + 1).
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])
    share = channel_weights(features, torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(share, torch.tensor([[0.9525741268, 0.0474258732]]))


def test_hidden_relu_blocks_a_negative_score() -> None:
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])
    share = channel_weights(features, torch.tensor([[-1.0, 0.0]]), torch.tensor([[5.0], [0.0]]))
    assert share.tolist() == [[0.5, 0.5]]


def test_spatial_weights_by_hand() -> None:
    # Channel sums: 3, 1 / 0, 4; their sum is 8.
    weighted = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 3.0]]]])
    assert spatial_weights(weighted).tolist() == [[[[0.375, 0.125], [0.0, 0.5]]]]


def test_negative_values_are_clamped_one_by_one_before_the_channel_sum() -> None:
    weighted = torch.tensor([[[[1.0, 1.0]], [[-5.0, 2.0]]]])  # clamped: 1 + 0, 1 + 2
    assert spatial_weights(weighted).tolist() == [[[[0.25, 0.75]]]]


def test_apply_spatial_rescales_every_channel_alike() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    attended = apply_spatial(features, torch.tensor([[[[0.5, 2.0]]]]))
    assert attended.tolist() == [[[[0.5, 4.0]], [[1.5, 8.0]]]]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("channel", "spatial", "norm", "descriptor_norm"),
    list(itertools.product([False, True], [False, True], NORMS, [False, True])),
)
def test_module_equals_the_loops(
    channel: bool, spatial: bool, norm: SpatialNorm, descriptor_norm: bool, signed: bool
) -> None:
    torch.manual_seed(0)
    module = ChannelSpatialAttention(
        6,
        reduction=3,
        channel=channel,
        spatial=spatial,
        spatial_norm=norm,
        descriptor_norm=descriptor_norm,
    ).double()
    with torch.no_grad():
        module.expand.weight.mul_(10)  # away from a uniform S
    features = feature_map(3, 6, 4, 5, signed=signed)
    attention = module(features)
    for b in range(3):
        s, t, d = reference.attend(
            features[b].numpy(),
            module.reduce.weight.detach().numpy(),
            module.expand.weight.detach().numpy(),
            channel=channel,
            spatial=spatial,
            norm=norm,
            descriptor_norm=descriptor_norm,
        )
        for got, wanted in (
            (attention.channel[b], s),
            (attention.spatial[b, 0], t),
            (attention.attended[b], d),
        ):
            torch.testing.assert_close(
                got.detach(), torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-15
            )


def test_spatial_attention_scales_the_features_not_the_weighted_map() -> None:
    """D = A ⊙ T, as Eq. (2) prints it, though T was read from B."""
    module = ChannelSpatialAttention(4, reduction=2).double()
    features = feature_map(2, 4, 3, 3)
    attention = module(features)
    torch.testing.assert_close(attention.attended, features * attention.spatial, rtol=0, atol=0)
    weighted = attention.channel[:, :, None, None] * features
    assert not torch.allclose(attention.attended, weighted * attention.spatial)


@pytest.mark.parametrize("descriptor_norm", [False, True])
def test_gradcheck_of_channel_weights(descriptor_norm: bool) -> None:
    reduce, expand = two_layers(5, 3)
    inputs = [tensor.requires_grad_() for tensor in (feature_map(2, 5, 2, 3, signed=True), reduce, expand)]
    assert gradcheck(lambda a, v, w: channel_weights(a, v, w, descriptor_norm=descriptor_norm), inputs)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("signed", [False, True])
def test_gradcheck_of_spatial_weights(norm: SpatialNorm, signed: bool) -> None:
    weighted = feature_map(2, 3, 2, 3, signed=True)
    weighted = (weighted if signed else weighted.abs()).requires_grad_()
    assert gradcheck(lambda b: spatial_weights(b, norm=norm), (weighted,))


@pytest.mark.parametrize(("channel", "spatial"), list(itertools.product([False, True], repeat=2)))
def test_gradcheck_of_the_module(channel: bool, spatial: bool) -> None:
    torch.manual_seed(3)
    module = ChannelSpatialAttention(4, reduction=2, channel=channel, spatial=spatial).double()
    features = feature_map(2, 4, 2, 3, signed=True).requires_grad_()
    assert gradcheck(lambda a: tuple(module(a)), (features,))


DEGENERATE = {
    "all zero": torch.zeros(2, 4, 3, 3),
    "all negative": -torch.ones(2, 4, 3, 3),
    "one pixel": torch.rand(2, 4, 1, 1),
    "batch of one": torch.rand(1, 4, 3, 3),
    "signed": torch.randn(2, 4, 3, 3),
    "one zero image beside another": torch.stack([torch.zeros(4, 3, 3), torch.ones(4, 3, 3)]),
    "vanishing": torch.full((2, 4, 3, 3), 1e-30),
    "huge": torch.full((2, 4, 3, 3), 1e8),
    "saturated": torch.cat([torch.full((2, 1, 3, 3), 1e6), torch.ones(2, 3, 3, 3)], dim=1),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_maps_give_finite_values_and_gradients(name: str, norm: SpatialNorm) -> None:
    torch.manual_seed(0)
    module = ChannelSpatialAttention(4, reduction=2, spatial_norm=norm, descriptor_norm=True)
    features = DEGENERATE[name].clone().requires_grad_()
    attention = module(features)
    (
        attention.attended.mean() + attention.spatial.square().sum() + attention.channel.square().sum()
    ).backward()
    tensors = [*attention, features.grad, module.reduce.weight.grad, module.expand.weight.grad]
    assert all(tensor is not None and tensor.isfinite().all() for tensor in tensors)
    torch.testing.assert_close(attention.channel.sum(dim=1), torch.ones(len(features)))
    if norm != "sigmoid":
        torch.testing.assert_close(attention.spatial.sum(dim=(1, 2, 3)), torch.ones(len(features)))


def test_an_empty_map_looks_everywhere_alike() -> None:
    spatial = spatial_weights(torch.zeros(1, 3, 2, 5))
    torch.testing.assert_close(spatial, torch.full((1, 1, 2, 5), 0.1), rtol=0, atol=1e-9)


def test_one_channel_and_a_reduction_beyond_it() -> None:
    attention = ChannelSpatialAttention(1, reduction=16)(torch.rand(2, 1, 3, 3))
    assert attention.channel.tolist() == [[1.0], [1.0]]


def test_saturated_channel_attention_underflows_without_harm() -> None:
    module = ChannelSpatialAttention(4, reduction=2)
    with torch.no_grad():
        module.reduce.weight.fill_(1)
        module.expand.weight.copy_(torch.tensor([[300.0] * 2, [0.0] * 2, [0.0] * 2, [0.0] * 2]))
    features = torch.ones(2, 4, 3, 3, requires_grad=True)
    attention = module(features)
    assert attention.channel[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    attention.attended.sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()


maps = st.builds(
    feature_map,
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 4),
    signed=st.booleans(),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=50)
@given(features=maps, descriptor_norm=st.booleans(), scale=st.floats(1e-3, 1e3))
def test_channel_weights_are_a_distribution(features: Tensor, descriptor_norm: bool, scale: float) -> None:
    reduce, expand = two_layers(features.shape[1], 3)
    share = channel_weights(features * scale, reduce, expand, descriptor_norm=descriptor_norm)
    assert (share >= 0).all()
    torch.testing.assert_close(share.sum(dim=1), torch.ones(len(features), dtype=torch.float64))


@settings(max_examples=50)
@given(weighted=maps, scale=st.floats(1e-3, 1e3))
def test_ratio_is_a_distribution_blind_to_scale(weighted: Tensor, scale: float) -> None:
    spatial = spatial_weights(weighted)
    assert (spatial >= 0).all()
    torch.testing.assert_close(spatial.sum(dim=(1, 2, 3)), torch.ones(len(weighted), dtype=torch.float64))
    torch.testing.assert_close(spatial_weights(weighted * scale), spatial)


@settings(max_examples=50)
@given(features=maps, scale=st.floats(1e-1, 1e3))
def test_with_a_normalised_descriptor_brightness_changes_neither_s_nor_t(
    features: Tensor, scale: float
) -> None:
    """The LayerNorm takes the scale out of S (up to its ε), and Eq. (3) out of T."""
    features = 100 * features + 1
    torch.manual_seed(0)
    module = ChannelSpatialAttention(features.shape[1], reduction=2, descriptor_norm=True).double()
    before, after = module(features), module(features * scale)
    torch.testing.assert_close(after.channel, before.channel, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(after.spatial, before.spatial, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_autocast_computes_in_float32(norm: SpatialNorm) -> None:
    torch.manual_seed(0)
    module = ChannelSpatialAttention(8, reduction=2, spatial_norm=norm)
    features = torch.rand(2, 8, 3, 3)
    plain = module(features)
    with torch.autocast("cpu", torch.bfloat16):
        same = module(features)
        halved = module(features.bfloat16())
    for got, wanted, near in zip(same, plain, halved, strict=True):
        assert got.dtype == near.dtype == torch.float32
        assert torch.equal(got, wanted)
        torch.testing.assert_close(near, wanted, rtol=2e-2, atol=1e-3)


def test_channels_last_memory_changes_nothing() -> None:
    features = torch.rand(2, 8, 3, 5)
    for norm in NORMS:
        module = ChannelSpatialAttention(8, reduction=2, spatial_norm=norm)
        for got, wanted in zip(
            module(features.to(memory_format=torch.channels_last)), module(features), strict=True
        ):
            torch.testing.assert_close(got, wanted)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="expected one of ratio, softmax, sigmoid"):
        spatial_weights(torch.rand(1, 2, 3, 3), norm="tanh")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="spatial norm 'tanh'"):
        ChannelSpatialAttention(4, spatial_norm="tanh")  # pyright: ignore[reportArgumentType]
    for channels, reduction in ((0, 16), (4, 0)):
        with pytest.raises(ValueError, match="both must be at least 1"):
            ChannelSpatialAttention(channels, reduction=reduction)
    module = ChannelSpatialAttention(4)
    for shape in ((2, 3, 3, 4), (2, 4)):
        with pytest.raises(ValueError, match=r"expected \(B, 4, H, W\).*permute"):
            module(torch.rand(*shape))


def test_repr_shows_the_switches() -> None:
    assert "channel=False, spatial=True, spatial_norm=ratio" in repr(
        ChannelSpatialAttention(4, channel=False)
    )
