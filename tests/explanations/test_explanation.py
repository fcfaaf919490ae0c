"""`explain`: the right maps in any mode, and a model that does not notice it was asked."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from ggam import Explanation, create_model, explain, explain_maps
from ggam.explanations.explanation import available_maps, weights_at_features
from ggam.methods.base import FineGrainedModel


def build(method: str = "ggam", **options: Any) -> FineGrainedModel:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    model = create_model(body, 5, method=method, image_size=16, **options)
    model.train()
    for _ in range(3):  # running statistics that are not those of a fresh network
        model.losses(images(8), torch.arange(8) % 5)
    return model


KINDS = ("gradcam", "gradcam-features", "spatial", "channel")


def maps_of(*arguments: Any, **options: Any) -> dict[str, Tensor]:
    return explain_maps(*arguments, **options)[1]


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("method", ["ggam", "baseline"])
@pytest.mark.parametrize("classes", [None, torch.tensor([4, 0, 2])])
def test_explanation_is_the_gradient_of_the_whole_network(method: str, classes: Tensor | None) -> None:
    model = build(method).double().eval()
    explanation = explain(model, images().double(), classes)
    output = model(images().double())
    places = (output.features, output.attended)
    chosen = output.logits.argmax(dim=1) if classes is None else classes
    first, last = torch.autograd.grad(output.logits.gather(1, chosen[:, None]).sum(), places)
    assert torch.equal(explanation.classes, chosen)
    torch.testing.assert_close(explanation.logits, output.logits)
    torch.testing.assert_close(explanation.attended, places[1])
    features, before = weights_at_features(model, images().double(), chosen)
    torch.testing.assert_close(features, output.features)
    for b in range(3):
        beta = last[b].mean(dim=(1, 2)).tolist()
        np.testing.assert_allclose(explanation.weights[b].numpy(), beta, rtol=1e-9, atol=1e-15)
        wanted = reference.heat_map(places[1][b].detach().numpy(), beta)
        np.testing.assert_allclose(explanation.maps[b].numpy(), wanted, rtol=1e-9, atol=1e-18)
        np.testing.assert_allclose(before[b], first[b].mean(dim=(1, 2)), rtol=1e-9, atol=1e-15)


def test_shapes_and_types() -> None:
    explanation = explain(build(), images())
    assert isinstance(explanation, Explanation)
    assert explanation.logits.shape == (3, 5) and explanation.classes.shape == (3,)
    assert explanation.maps.shape == (3, 4, 4) and explanation.weights.shape == (3, 8)
    assert explanation.attended.shape == explanation.features.shape == (3, 8, 4, 4)
    shapes = {name: tuple(part.shape) for name, part in explanation.shown.items()}
    assert shapes == {"channel": (3, 8), "spatial": (3, 1, 4, 4)}
    assert not explain(build("baseline"), images()).shown


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
    parts = [*explanation[:6], *explanation.shown.values()]
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


@pytest.mark.parametrize("method", ["ggam", "baseline"])
def test_several_classes_per_image_in_one_pass_through_the_backbone(method: str) -> None:
    model, passes = build(method), []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    classes = torch.tensor([[4, 0], [0, 0], [2, 3]])
    several = explain(model, images(), classes)
    assert len(passes) == 1
    assert several.maps.shape == (3, 2, 4, 4) and several.weights.shape == (3, 2, 8)
    assert torch.equal(several.classes, classes) and several.empty.shape == (3, 2)
    for m in range(2):
        single = explain(model, images(), classes[:, m])
        assert torch.equal(several.maps[:, m], single.maps)
        assert torch.equal(several.weights[:, m], single.weights)
        assert torch.equal(several.logits, single.logits)


def test_empty_maps_are_reported_and_never_divided_by_zero() -> None:
    model = build("baseline")
    with torch.no_grad():
        model.get_parameter("classifier.4.weight")[1].zero_()  # nothing speaks for class 1
    explanation = explain(model, images(), torch.tensor([[1, 0], [1, 2], [1, 3]]))
    assert explanation.empty[:, 0].all() and not explanation.maps[:, 0].any()
    assert not explanation.normalized[:, 0].any()
    shown = ~explanation.empty
    assert shown.any() and explanation.normalized[shown].amax(dim=(-2, -1)).eq(1).all()
    raw = explanation.maps[shown]
    torch.testing.assert_close(
        explanation.normalized[shown] * raw.amax(dim=(-2, -1), keepdim=True), raw, rtol=1e-6, atol=0
    )


def test_a_map_that_is_not_a_number_is_empty() -> None:
    explanation = explain(build(), torch.full((1, 3, 16, 16), torch.nan))
    assert explanation.empty.all() and not explanation.normalized.any()


@pytest.mark.parametrize("options", [{}, {"preset": "released"}, {"spatial": False}, {"channel": False}])
def test_the_kinds_of_map_by_their_formulas(options: dict[str, Any]) -> None:
    model = build(**options).double().eval()
    explanation, kinds = explain_maps(model, images().double())
    assert tuple(kinds) == available_maps(model)
    assert torch.equal(kinds["gradcam"], explanation.maps)
    features = explanation.features.requires_grad_()
    output = model.head({"last": features}, images())
    places = {"gradcam": output.attended, "gradcam-features": features}
    gradients = torch.autograd.grad(output.logits.max(dim=1).values.sum(), tuple(places.values()))
    for b in range(3):
        for (kind, place), gradient in zip(places.items(), gradients, strict=True):
            wanted = reference.heat_map(place[b].detach().numpy(), gradient[b].mean(dim=(1, 2)).tolist())
            np.testing.assert_allclose(kinds[kind][b], wanted, rtol=1e-9, atol=1e-18)
        if "spatial" in kinds:
            assert torch.equal(kinds["spatial"][b], output.maps["spatial"][b, 0])
        if "channel" in kinds:
            scores = output.maps["channel"][b].tolist()
            wanted = reference.heat_map(features[b].detach().numpy(), scores)
            np.testing.assert_allclose(kinds["channel"][b], wanted, rtol=1e-9)


def test_the_spatial_attention_of_a_rectified_map_is_the_channel_map_normalised() -> None:
    model = build()
    kinds = maps_of(model, images())
    mass = kinds["channel"].sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(kinds["spatial"], kinds["channel"] / mass)


@pytest.mark.parametrize(
    ("method", "options", "kinds"),
    [
        ("ggam", {}, KINDS),
        ("ggam", {"spatial": False}, ("gradcam", "gradcam-features", "channel")),
        ("ggam", {"channel": False}, ("gradcam", "gradcam-features", "spatial")),
        ("ggam", {"channel": False, "spatial": False}, ("gradcam",)),
        ("baseline", {}, ("gradcam",)),
    ],
)
def test_only_attention_at_work_is_a_map(
    method: str, options: dict[str, Any], kinds: tuple[str, ...]
) -> None:
    model = build(method, **options)
    assert available_maps(model) == kinds == tuple(maps_of(model, images()))


def test_kinds_can_be_chosen_and_are_shaped_like_the_maps_of_the_classes() -> None:
    model = build()
    classes = torch.tensor([[4, 0], [0, 0], [2, 3]])
    for kind, maps in maps_of(model, images(), classes).items():
        assert maps.shape == (3, 2, 4, 4), kind
        assert not maps.requires_grad
        single = maps_of(model, images(), classes[:, 1], kinds=[kind])[kind]
        torch.testing.assert_close(maps[:, 1], single)
    assert list(maps_of(model, images(), kinds=["spatial", "gradcam"])) == ["spatial", "gradcam"]


def test_the_predicted_class_beside_others() -> None:
    model = build()
    predicted = explain(model, images()).classes
    beside = explain(model, images(), torch.tensor([[-1, 4]] * 3))
    assert torch.equal(beside.classes, torch.stack([predicted, torch.full((3,), 4)], dim=1))
    assert torch.equal(beside.maps[:, 0], explain(model, images()).maps)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_kinds_in_any_gradient_mode_and_in_train_mode(context: Any) -> None:
    model = build().train()
    wanted = maps_of(model, images())
    with context():
        found = maps_of(model, images())
        predicted = explain(model, images()).logits.argmax(dim=1)  # under inference_mode of that mode too
        named = maps_of(model, images(), predicted)
    assert model.training
    assert all(torch.equal(found[kind], wanted[kind]) for kind in KINDS)
    assert all(torch.equal(named[kind], wanted[kind]) for kind in KINDS)


def test_kinds_under_autocast_are_close_to_float32() -> None:
    model = build()
    wanted = maps_of(model, images())
    with torch.autocast("cpu", torch.bfloat16):
        found = maps_of(model, images())
    for kind in KINDS:
        assert found[kind].dtype == torch.float32
        assert (found[kind] - wanted[kind]).norm() / wanted[kind].norm() < 0.05, kind


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("ggam", "grad-cam", "map 'grad-cam': expected gradcam, gradcam-features, spatial, channel"),
        ("baseline", "spatial", "map 'spatial': this baseline model has only gradcam"),
    ],
)
def test_a_kind_that_is_not_there_is_refused(method: str, kind: str, message: str) -> None:
    model = build(method)
    with pytest.raises(ValueError, match=message):
        explain_maps(model, images(), kinds=[kind])


def test_training_goes_on_as_if_nothing_had_been_explained() -> None:
    def step(ask: bool) -> list[Tensor]:
        model = build()
        terms = model.losses(images(), torch.tensor([0, 1, 2]))
        if ask:
            explain(model, images())
        torch.stack(list(terms.values())).sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(step(True), step(False), strict=True))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((3, 16, 16), None, r"images of shape \(3, 16, 16\): expected \(B, 3, h, w\)"),
        ((2, 1, 16, 16), None, r"expected \(B, 3, h, w\)"),
        ((2, 3, 16, 16), torch.tensor([1]), "expected 2 integers, one per image"),
        ((2, 3, 16, 16), torch.tensor([1.0, 0.0]), "torch.float32: expected 2 integers"),
        ((2, 3, 16, 16), torch.tensor([0, 5]), "classes from 0 to 5: expected -1 to 4"),
        ((2, 3, 16, 16), torch.tensor([[0, 5], [1, 1]]), "classes from 0 to 5: expected -1 to 4"),
        ((2, 3, 16, 16), torch.tensor([[0, 1]]), r"classes of shape \(1, 2\)"),
        ((2, 3, 16, 16), torch.zeros(2, 0).long(), r"classes of shape \(2, 0\)"),
        ((2, 3, 16, 16), torch.tensor([-2, 0]), "classes from -2 to 0: expected -1 to 4"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(build(), torch.rand(*shape), classes)
