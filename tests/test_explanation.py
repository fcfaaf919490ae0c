"""`explain`: the right maps in any mode, and a model that does not notice it was asked."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from ggam import Explanation, create_model, explain
from ggam.methods.base import FineGrainedModel


def build(method: str = "ggam", **options: Any) -> FineGrainedModel:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    model = create_model(body, 5, method=method, image_size=16, **options)
    model.train()
    for _ in range(3):  # running statistics that are not those of a fresh network
        model.training_loss(images(8), torch.arange(8) % 5)
    return model


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("method", ["ggam", "baseline"])
@pytest.mark.parametrize("classes", [None, torch.tensor([4, 0, 2])])
def test_explanation_is_the_gradient_of_the_whole_network(method: str, classes: Tensor | None) -> None:
    model = build(method).double().eval()
    explanation = explain(model, images().double(), classes)
    seen: list[Any] = []
    with model.backbone.register_forward_hook(lambda _, __, output: seen.append(output)):
        logits = model(images().double()).logits
    chosen = logits.argmax(dim=1) if classes is None else classes
    (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), seen[0])
    assert torch.equal(explanation.classes, chosen)
    torch.testing.assert_close(explanation.logits, logits)
    for b in range(3):
        beta = gradient[b].mean(dim=(1, 2)).tolist()
        np.testing.assert_allclose(explanation.weights[b].numpy(), beta, rtol=1e-9, atol=1e-15)
        wanted = reference.heat_map(seen[0][b].detach().numpy(), beta)
        np.testing.assert_allclose(explanation.maps[b].numpy(), wanted, rtol=1e-9, atol=1e-15)


def test_shapes_and_types() -> None:
    explanation = explain(build(), images())
    assert isinstance(explanation, Explanation)
    assert explanation.logits.shape == (3, 5) and explanation.classes.shape == (3,)
    assert explanation.maps.shape == (3, 4, 4) and explanation.weights.shape == (3, 8)
    assert explanation.attention is not None
    assert [tuple(part.shape) for part in explanation.attention] == [(3, 8), (3, 1, 4, 4), (3, 8, 4, 4)]
    assert explain(build("baseline"), images()).attention is None


@pytest.mark.parametrize("method", ["ggam", "baseline"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(method: str, training: bool) -> None:
    model = build(method).train(training)
    model.backbone.body.eval()  # a frozen part in eval mode, as is often done
    modes = [module.training for module in model.modules()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explanation = explain(model, images())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is not None and p.grad.eq(3).all() and p.requires_grad for p in model.parameters())
    parts = [*explanation[:4], *(explanation.attention or ())]
    assert not any(part.requires_grad or part.is_inference() for part in parts)


def test_train_mode_does_not_change_the_answer() -> None:
    model = build()
    got, wanted = explain(model.train(), images()), explain(model.eval(), images())
    assert torch.equal(got.maps, wanted.maps) and torch.equal(got.logits, wanted.logits)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_gradient_mode_gives_the_same(context: Any) -> None:
    model, wanted = build(), explain(build(), images())
    with context():
        explanation = explain(model, images())  # under inference_mode, so are the pictures
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert torch.equal(explanation.maps, wanted.maps)


@pytest.mark.parametrize("method", ["ggam", "baseline"])
def test_autocast_gives_float32_close_to_float32(method: str) -> None:
    model = build(method)
    wanted = explain(model, images())
    with torch.autocast("cpu", torch.bfloat16):
        explanation = explain(model, images(), wanted.classes)
    for got, exact in zip(explanation[:4], wanted[:4], strict=True):
        assert got.dtype == exact.dtype
        if got.is_floating_point():
            assert (got - exact).norm() / exact.norm() < 0.05


def test_a_frozen_model_can_be_explained() -> None:
    model, wanted = build(), explain(build(), images())
    model.requires_grad_(False)
    assert torch.equal(explain(model, images()).maps, wanted.maps)


def test_each_image_may_be_asked_about_another_class() -> None:
    model = build()
    together = explain(model, images(), torch.tensor([4, 0, 2], dtype=torch.int32))
    assert together.classes.tolist() == [4, 0, 2] and together.classes.dtype == torch.int64
    for b, k in enumerate([4, 0, 2]):
        alone = explain(model, images()[b : b + 1], torch.tensor([k]))
        torch.testing.assert_close(alone.maps[0], together.maps[b])


def test_training_goes_on_as_if_nothing_had_been_explained() -> None:
    def step(ask: bool) -> list[Tensor]:
        model = build()
        terms = model.training_loss(images(), torch.tensor([0, 1, 2]))
        if ask:
            explain(model, images())
        terms.total.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((3, 16, 16), None, r"images of shape \(3, 16, 16\): expected \(B, 3, h, w\)"),
        ((2, 1, 16, 16), None, r"expected \(B, 3, h, w\)"),
        ((2, 3, 16, 16), torch.tensor([1]), "expected 2 integers, one per image"),
        ((2, 3, 16, 16), torch.tensor([1.0, 0.0]), "torch.float32: expected 2 integers"),
        ((2, 3, 16, 16), torch.tensor([0, 5]), "classes from 0 to 5: expected 0 to 4"),
        ((2, 3, 16, 16), torch.tensor([-1, 0]), "classes from -1 to 0: expected 0 to 4"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(build(), torch.rand(*shape), classes)
