"""Eq. (4): β by autograd and in closed form, against slopes of the loop transcription."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import reference
from ggam.equations.attention import Attention, ChannelSpatialAttention, SpatialNorm
from ggam.equations.gradcam import Pool, checked_classes, closed_form_weights, gradcam_map, gradcam_weights
from ggam.methods.classifier import Classifier, logit_gradient

NORMS: tuple[SpatialNorm, ...] = ("ratio", "softmax", "sigmoid")
POOLS: tuple[Pool, ...] = ("average", "max")
COMBINATIONS = list(itertools.product([False, True], [False, True], NORMS, POOLS, [False, True]))
CHANNELS, CLASSES = 6, 5


class Head(nn.Module):
    """A → y as the package builds it, with statistics that a trained network could have."""

    def __init__(
        self, channel: bool, spatial: bool, norm: SpatialNorm, pool: Pool, descriptor_norm: bool
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = ChannelSpatialAttention(
            CHANNELS,
            reduction=2,
            channel=channel,
            spatial=spatial,
            spatial_norm=norm,
            descriptor_norm=descriptor_norm,
        )
        self.classifier = Classifier(CHANNELS, CLASSES, hidden=7)
        self.pool_kind: Pool = pool
        with torch.no_grad():
            self.attention.expand.weight.mul_(5)
            for norm_layer in (self.classifier[0], self.classifier[2]):
                assert isinstance(norm_layer, nn.BatchNorm1d)
                for tensor in (norm_layer.weight, norm_layer.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.01, 2)
                for tensor in (norm_layer.bias, norm_layer.running_mean):
                    assert tensor is not None
                    tensor.normal_(std=0.3)
        self.eval()

    def pool(self, attended: Tensor) -> Tensor:
        return attended.flatten(2).max(dim=2).values if self.pool_kind == "max" else attended.mean(dim=(2, 3))

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.pool(self.attention(features).attended))

    def closed_form(self, features: Tensor, classes: Tensor | None = None) -> Tensor:
        attention: Attention = self.attention(features)
        pooled = self.pool(attention.attended)
        chosen = self.classifier(pooled).argmax(dim=1) if classes is None else classes
        gradient = logit_gradient(self.classifier, pooled, chosen)
        assert gradient is not None
        return closed_form_weights(
            features,
            gradient,
            pool=self.pool_kind,
            channel=attention.channel if self.attention.channel else None,
            spatial=attention.spatial if self.attention.spatial else None,
            spatial_norm=self.attention.spatial_norm,
            reduce=self.attention.reduce.weight,
            expand=self.attention.expand.weight,
            descriptor_norm=self.attention.descriptor_norm,
        )

    def looped_logits(self, image: np.ndarray) -> reference.Vector:
        numbers = {name: value.detach().numpy() for name, value in self.state_dict().items()}
        *_, attended = reference.attend(
            image,
            numbers["attention.reduce.weight"],
            numbers["attention.expand.weight"],
            channel=self.attention.channel,
            spatial=self.attention.spatial,
            norm=self.attention.spatial_norm,
            descriptor_norm=self.attention.descriptor_norm,
        )
        parameters = {name.removeprefix("classifier."): value for name, value in numbers.items()}
        return reference.classify(reference.pool(attended, self.pool_kind), parameters)


def feature_map(signed: bool, batch: int = 3, height: int = 4, width: int = 5) -> Tensor:
    torch.manual_seed(1)
    values = torch.randn(batch, CHANNELS, height, width, dtype=torch.float64)
    return values if signed else values.relu()


def by_autograd(head: nn.Module, features: Tensor, classes: Tensor | None = None) -> Tensor:
    leaf = features.clone().requires_grad_()
    return gradcam_weights(head(leaf), leaf, classes)


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("channel", "spatial", "norm", "pool", "descriptor_norm"), COMBINATIONS)
def test_closed_form_equals_autograd(
    channel: bool, spatial: bool, norm: SpatialNorm, pool: Pool, descriptor_norm: bool, signed: bool
) -> None:
    head = Head(channel, spatial, norm, pool, descriptor_norm).double()
    features = feature_map(signed)
    for classes in (None, torch.tensor([4, 0, 2])):
        wanted = by_autograd(head, features, classes)
        with torch.no_grad():
            assert relative_difference(head.closed_form(features, classes), wanted) < 1e-9
    single = head.float()
    with torch.no_grad():
        got = single.closed_form(features.float())
    assert relative_difference(got, by_autograd(single, features.float())) < 1e-6


@pytest.mark.parametrize(
    ("channel", "spatial", "norm", "pool", "descriptor_norm"),
    [
        (True, True, "ratio", "average", False),  # the paper
        (True, True, "ratio", "average", True),  # ours
        (True, True, "sigmoid", "max", False),  # the authors' scripts
        (True, True, "softmax", "average", False),
        (False, True, "ratio", "average", False),
        (True, False, "ratio", "average", True),
        (False, False, "ratio", "average", False),
    ],
)
def test_both_equal_the_slopes_of_the_loops(
    channel: bool, spatial: bool, norm: SpatialNorm, pool: Pool, descriptor_norm: bool
) -> None:
    head = Head(channel, spatial, norm, pool, descriptor_norm).double()
    features = feature_map(signed=False, batch=2, height=3, width=3) + 0.1  # away from the clamp's kink
    logits = head(features)
    beta, closed = by_autograd(head, features), head.closed_form(features)
    for b, image in enumerate(features.numpy()):
        looped = head.looped_logits(image)
        np.testing.assert_allclose(logits[b].detach().numpy(), looped, rtol=1e-10)
        k = int(np.argmax(looped))
        wanted = reference.gradcam_weights(lambda a, k=k: head.looped_logits(a)[k], image)
        np.testing.assert_allclose(beta[b].numpy(), wanted, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(closed[b].detach().numpy(), wanted, rtol=1e-5, atol=1e-9)


def test_zeros_left_by_a_relu_pass_the_gradient_of_the_equation_as_printed() -> None:
    """Eq. (3) knows no clamp; ours, there for signed features, must not show where A ≥ 0."""
    head = Head(True, True, "ratio", "average", False).double()
    features = feature_map(signed=False).requires_grad_()
    assert (features == 0).any()
    channel = head.attention(features).channel
    weighted = channel[:, :, None, None] * features
    spatial = weighted.sum(dim=1, keepdim=True) / weighted.sum(dim=(1, 2, 3), keepdim=True)
    logits = head.classifier(head.pool(features * spatial))
    wanted = gradcam_weights(logits, features)
    torch.testing.assert_close(by_autograd(head, features.detach()), wanted, rtol=1e-10, atol=1e-14)


def test_weights_by_hand() -> None:
    """y₀ = Σ A², y₁ = 3 Σ A: the gradients are 2A and 3."""
    features = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]], requires_grad=True)
    logits = torch.stack([features.square().sum(dim=(1, 2, 3)), 3 * features.sum(dim=(1, 2, 3))], dim=1)
    assert logits.tolist() == [[21.0, 21.0]]
    assert gradcam_weights(logits, features, torch.tensor([0])).tolist() == [[3.0, 4.0]]
    assert gradcam_weights(logits, features, torch.tensor([1])).tolist() == [[3.0, 3.0]]
    assert gradcam_weights(logits, features).tolist() == [[3.0, 4.0]]  # a tie: one class, not a mixture


def test_map_by_hand_and_by_loops() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    assert gradcam_map(features, torch.tensor([[3.0, -1.0]])).tolist() == [[[3.0, 2.0]]]
    assert gradcam_map(features, torch.tensor([[-3.0, 1.0]])).tolist() == [[[0.0, 0.0]]]
    features, weights = feature_map(signed=True), torch.randn(3, CHANNELS, dtype=torch.float64)
    for b, heat in enumerate(gradcam_map(features, weights)):
        wanted = reference.heat_map(features[b].numpy(), weights[b].tolist())
        np.testing.assert_allclose(heat.numpy(), wanted, rtol=1e-12, atol=1e-15)


def test_each_image_has_its_own_class() -> None:
    head = Head(True, True, "ratio", "average", True).double()
    features = feature_map(signed=False)
    classes = torch.tensor([1, 3, 0])
    together = by_autograd(head, features, classes)
    for b in range(3):
        alone = by_autograd(head, features[b : b + 1], classes[b : b + 1])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-10, atol=1e-14)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(by_autograd(head, features, classes.to(dtype)), together)


def test_the_predicted_class_is_the_default() -> None:
    head = Head(True, True, "ratio", "average", True).double()
    features = feature_map(signed=False)
    predicted = head(features).argmax(dim=1)
    assert torch.equal(by_autograd(head, features), by_autograd(head, features, predicted))


def test_no_grad_is_touched_and_training_goes_on_as_without_it() -> None:
    """Twice on one graph, then the loss's own backward: the same bits as if β had never been asked for."""
    stem = nn.Conv2d(3, CHANNELS, 3)
    head = Head(True, True, "ratio", "average", False).train()
    parameters = [*stem.parameters(), *head.parameters()]
    images, targets = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    statistics = {name: value.clone() for name, value in head.named_buffers()}

    def gradients(with_beta: bool) -> list[Tensor]:
        head.load_state_dict({**head.state_dict(), **statistics})
        for parameter in parameters:
            parameter.grad = None
        features = stem(images)
        logits = head(features)
        if with_beta:
            first, second = gradcam_weights(logits, features), gradcam_weights(logits, features)
            assert torch.equal(first, second) and not first.requires_grad
            assert all(parameter.grad is None for parameter in parameters)
            assert images.grad is None and head.training
        nn.functional.cross_entropy(logits, targets).backward()
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    for got, wanted in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(got, wanted)


def test_gradients_already_there_stay() -> None:
    head = Head(True, True, "ratio", "average", False)
    for parameter in head.parameters():
        parameter.grad = torch.full_like(parameter, 7)
    by_autograd(head, feature_map(signed=False).float())
    assert all(parameter.grad.eq(7).all() for parameter in head.parameters() if parameter.grad is not None)


DEGENERATE = {
    "all zero": torch.zeros(2, CHANNELS, 3, 3),
    "all negative": -torch.ones(2, CHANNELS, 3, 3),
    "one pixel": torch.rand(2, CHANNELS, 1, 1),
    "batch of one": torch.rand(1, CHANNELS, 3, 3),
    "vanishing": torch.full((2, CHANNELS, 3, 3), 1e-30),
    "huge": torch.full((2, CHANNELS, 3, 3), 1e8),
    "constant": torch.ones(2, CHANNELS, 3, 3),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize(("norm", "pool"), list(itertools.product(NORMS, POOLS)))
def test_degenerate_maps_are_finite_and_both_ways_agree(name: str, norm: SpatialNorm, pool: Pool) -> None:
    head = Head(True, True, norm, pool, True).double()
    features = DEGENERATE[name].double()
    closed, beta = head.closed_form(features), by_autograd(head, features)
    assert closed.isfinite().all() and beta.isfinite().all()
    torch.testing.assert_close(closed, beta, rtol=1e-9, atol=1e-12)
    assert gradcam_map(features, beta).isfinite().all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    scale=st.floats(1e-2, 1e2),
    combination=st.sampled_from(COMBINATIONS),
)
def test_closed_form_for_any_map(
    seed: int,
    batch: int,
    height: int,
    width: int,
    scale: float,
    combination: tuple[bool, bool, SpatialNorm, Pool, bool],
) -> None:
    head = Head(*combination).double()
    generator = torch.Generator().manual_seed(seed)
    features = scale * torch.randn(batch, CHANNELS, height, width, generator=generator, dtype=torch.float64)
    closed, wanted = head.closed_form(features), by_autograd(head, features)
    torch.testing.assert_close(closed, wanted, rtol=1e-8, atol=1e-9 * float(wanted.abs().max()))


def test_float32_under_autocast() -> None:
    head = Head(True, True, "ratio", "average", False)
    features = feature_map(signed=False).float()
    plain = by_autograd(head, features)
    with torch.autocast("cpu", torch.bfloat16):
        heat = gradcam_map(features.bfloat16(), plain)
        near = by_autograd(head, features)
        closed = head.closed_form(features, by_class := head(features).argmax(dim=1))
    assert heat.dtype == near.dtype == closed.dtype == torch.float32
    exact = gradcam_map(features, plain)
    torch.testing.assert_close(heat, exact, rtol=2e-2, atol=1e-2 * float(exact.max()))
    assert relative_difference(near, by_autograd(head, features, by_class)) < 0.1
    assert torch.equal(gradcam_map(features, plain), exact)


def test_half_precision_features_are_averaged_in_float32() -> None:
    features = torch.rand(2, 4, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    assert gradcam_weights(features.mean(dim=(2, 3)), features).dtype == torch.float32


def test_errors_say_what_is_wrong() -> None:
    features = torch.rand(2, 4, 3, 3, requires_grad=True)
    logits = features.mean(dim=(2, 3))
    for bad_logits, bad_features in (
        (logits[0], features),
        (logits, features.flatten(2)),
        (logits[:1], features),
    ):
        with pytest.raises(ValueError, match=r"expected \(B, K\) and \(B, C, H, W\)"):
            gradcam_weights(bad_logits, bad_features)
    with pytest.raises(ValueError, match="carry no gradient"):
        gradcam_weights(logits.detach(), features)
    with pytest.raises(ValueError, match="carry no gradient"):
        gradcam_weights(logits, features.detach())
    with pytest.raises(ValueError, match="do not depend on these features"):
        gradcam_weights(logits, torch.rand(2, 4, 3, 3, requires_grad=True))
    for classes in (torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="expected 2 integers, one per image"):
            gradcam_weights(logits, features, classes)
    for classes in (torch.tensor([0, 4]), torch.tensor([-1, 3])):
        with pytest.raises(ValueError, match="expected 0 to 3"):
            gradcam_weights(logits, features, classes)
    with pytest.raises(ValueError, match="needs its reduce and expand weights"):
        closed_form_weights(
            features.detach(), torch.rand(2, 4), pool="average", channel=torch.full((2, 4), 0.25)
        )


def test_classes_come_back_as_indices() -> None:
    assert checked_classes(torch.tensor([1, 0], dtype=torch.uint8), 2, 2).dtype == torch.int64
    assert checked_classes(torch.zeros(0, dtype=torch.int64), 0, 2).shape == (0,)
