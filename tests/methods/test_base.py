"""The contract of all methods: precision, Grad-CAM in any mode, and the shared classifier."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ggam import explain_maps
from ggam.backbones.build import Features, create_backbone
from ggam.equations.gradcam import gradcam_weights
from ggam.methods.base import FineGrainedModel, ModelConfig, Output, accuracy, require_answer
from ggam.methods.baseline import Baseline
from ggam.methods.classifier import Classifier, logit_gradient


class ConvolutionHead(FineGrainedModel):
    """A method whose head has no closed form here."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        config = ModelConfig("test", None, None, 16, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
        super().__init__(create_backbone(body, image_size=16), config, options)
        self.convolution = nn.Conv2d(6, 3, 3)

    def head(self, features: Features, images: Tensor) -> Output:
        last = features["last"]
        return Output(self.convolution(last).square().mean(dim=(2, 3)), last, last, {})


def randomised(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        for layer in classifier:
            if isinstance(layer, nn.BatchNorm1d):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_var.uniform_(0.01, 3)
                for tensor in (layer.running_mean, layer.weight, layer.bias):
                    tensor.normal_()
    return classifier.eval()


def test_classifier_gradient_equals_autograd() -> None:
    torch.manual_seed(0)
    classifier = randomised(Classifier(9, 3, hidden=11)).double()
    pooled = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([2, 0, 1, 2])
    (wanted,) = torch.autograd.grad(classifier(pooled).gather(1, classes[:, None]).sum(), pooled)
    got = logit_gradient(classifier, pooled.detach(), classes)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_classifier_gradient_survives_large_activations() -> None:
    classifier = randomised(Classifier(9, 3, hidden=11))
    gradient = logit_gradient(classifier, torch.full((2, 9), 1e6), torch.tensor([0, 2]))
    assert gradient is not None and gradient.isfinite().all()


def test_the_gradient_of_another_classifier_is_not_known() -> None:
    class Doubled(Classifier):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    pooled, classes = torch.rand(2, 9), torch.tensor([0, 2])
    assert logit_gradient(Doubled(9, 3).eval(), pooled, classes) is None
    assert logit_gradient(Classifier(9, 3).train(), pooled, classes) is None
    assert logit_gradient(nn.Linear(9, 3), pooled, classes) is None


def test_a_closed_form_is_not_inherited_past_the_head_it_belongs_to() -> None:
    class Squared(Baseline):
        def head(self, features: Features, images: Tensor) -> Output:
            output = super().head(features, images)
            return output._replace(logits=output.logits.square())

    class Renamed(Baseline):
        """The same head."""

    class Declared(Squared):
        def closed_form(self, output: Output, classes: Tensor, at: Any) -> Tensor | None:
            return None

    assert Baseline.closed_form is not FineGrainedModel.closed_form
    assert Squared.closed_form is FineGrainedModel.closed_form
    assert Renamed.closed_form is Baseline.closed_form
    assert Declared.closed_form is not FineGrainedModel.closed_form


def test_nor_past_a_head_that_a_mixin_brings() -> None:
    class Power:
        def head(self, features: Features, images: Tensor) -> Output:
            raise AssertionError("never called")

    class Mixed(Power, Baseline):
        """Another head in front of the plain network's."""

    assert Mixed.closed_form is FineGrainedModel.closed_form


def test_no_method_has_a_forward_of_its_own() -> None:
    with pytest.raises(TypeError, match=r"Shortcut: forward is the same for all methods; implement head\(\)"):

        class Shortcut(Baseline):
            def forward(self, images: Tensor) -> Output:  # pyright: ignore[reportIncompatibleMethodOverride]
                return super().forward(images)

    class Loose:
        def forward(self, images: Tensor) -> Output:
            raise AssertionError("never called")

    with pytest.raises(TypeError, match="Mixed: forward is the same for all methods"):

        class Mixed(Loose, Baseline):  # pyright: ignore[reportIncompatibleMethodOverride]
            """One that a mixin brings."""


def test_a_method_without_a_head_says_so() -> None:
    model = FineGrainedModel(ConvolutionHead().backbone, ConvolutionHead().config, None)
    with pytest.raises(NotImplementedError, match=r"FineGrainedModel does not implement head\(\)"):
        model(torch.rand(1, 3, 16, 16))


def test_the_default_loss_is_cross_entropy() -> None:
    model = ConvolutionHead()
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    terms = model.losses(images, labels)
    logits = model(images).logits
    assert list(terms) == ["classification"]
    assert terms["classification"].item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert model.diagnostics["accuracy"].item() == accuracy(logits, labels).item()


def test_probabilities_are_those_at_the_temperature() -> None:
    config = replace(ConvolutionHead().config, temperature=2.0)
    logits = torch.tensor([[0.0, 2.0, 4.0]])
    wanted = [1 / (1 + math.e + math.e**2) * math.e**k for k in range(3)]
    assert config.probabilities(logits)[0].tolist() == pytest.approx(wanted)


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 6.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1, 0])).item() == 0.5


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("classes", [None, torch.tensor([2, 0]), torch.tensor([[1, -1], [0, 2]])])
def test_gradcam_of_any_head_in_any_gradient_mode(context: Any, classes: Tensor | None) -> None:
    model, images = ConvolutionHead().eval(), torch.rand(2, 3, 16, 16)
    recorded = model(images)
    predicted = recorded.logits.argmax(dim=1)
    asked = (
        predicted
        if classes is None
        else torch.where(classes < 0, predicted[:, None], classes)
        if (classes.ndim == 2)
        else classes
    )
    columns = [gradcam_weights(recorded.logits, recorded.features, k) for k in asked.view(2, -1).unbind(1)]
    with context():
        output, explained, beta = model.gradcam(images.clone(), classes)
    torch.testing.assert_close(beta, columns[0] if asked.ndim == 1 else torch.stack(columns, dim=1))
    assert torch.equal(explained, asked)
    assert torch.equal(output.features, recorded.features)
    assert not any(tensor.requires_grad for tensor in (output.logits, output.features, beta))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradcam_under_autocast_is_float32() -> None:
    model, images = ConvolutionHead().eval(), torch.rand(2, 3, 16, 16)
    exact, classes, wanted = model.gradcam(images)
    with torch.autocast("cpu", torch.bfloat16):
        output, _, beta = model.gradcam(images, classes)
    assert beta.dtype == output.logits.dtype == output.features.dtype == torch.float32
    torch.testing.assert_close(output.logits, exact.logits, rtol=0.05, atol=0.05)
    torch.testing.assert_close(beta, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


def test_a_second_pass_runs_in_the_precision_of_the_first() -> None:
    seen: list[torch.dtype] = []

    class TwoPasses(ConvolutionHead):
        def head(self, features: Features, images: Tensor) -> Output:
            again = self.features(images.flip(-1))["last"]
            seen.append(self.convolution(again).dtype)
            return super().head({"last": features["last"] + again}, images)

    model, images = TwoPasses().eval(), torch.rand(2, 3, 16, 16)
    precisions: list[torch.dtype] = []
    model.backbone.body.register_forward_hook(lambda module, args, out: precisions.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images)
        assert precisions == [torch.bfloat16] * 2 and seen == [torch.float32]
    model(images)
    assert precisions[2:] == [torch.float32] * 2


def test_only_the_backbone_is_pretrained() -> None:
    model = ConvolutionHead()
    new, backbone = model.parameter_groups()
    assert backbone.pretrained and not new.pretrained
    assert {id(p) for p in backbone.parameters} == {id(p) for p in model.backbone.parameters()}
    assert {id(p) for p in new.parameters} == {id(p) for p in model.convolution.parameters()}


def spoilt(change: Callable[[Output], Any], kinds: tuple[str, ...] = ()) -> FineGrainedModel:
    """A method whose head answers otherwise than it should."""

    class Spoilt(ConvolutionHead):
        map_titles: ClassVar[Mapping[str, str]] = {"there": "There"}
        map_kinds = kinds  # pyright: ignore

        def head(self, features: Features, images: Tensor) -> Output:
            return change(super().head(features, images))

    return Spoilt()


@pytest.mark.parametrize(
    ("change", "kinds", "message"),
    [
        (
            lambda out: out.logits,
            (),
            r"with logits \(2, 3\) for two pictures; got Tensor",
        ),
        (lambda out: out._replace(logits=out.logits[:, :2]), (), r"got \(2, 2\)"),
        (lambda out: out._replace(logits=out.logits.repeat(1, 2)), (), r"got \(2, 6\)"),
        (lambda out: out._replace(attended=out.attended.detach()), (), "do not depend on the attended map"),
        (lambda out: out._replace(attended=2 * out.attended), (), "do not depend on the attended map"),
        (lambda out: out, ("there",), "the map 'there' is not in map_titles, or not in the Output's maps"),
        (
            lambda out: out._replace(maps={"odd": out.features}),
            ("odd",),
            "'odd' is not in map_titles",
        ),
    ],
)
def test_what_a_method_does_wrong_shows_before_it_is_trained(
    change: Any, kinds: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"Spoilt.*{message}"):
        require_answer(spoilt(change, kinds))


def test_what_is_right_is_let_through_and_left_alone() -> None:
    model = spoilt(lambda out: out._replace(maps={"there": out.features[:, :1]}), ("there",)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    require_answer(model)
    assert model.training and all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_maps_of_other_stages_are_shown_at_the_size_of_the_heat_map(size: int) -> None:
    shown = torch.rand(2, 1, size, size)
    model = spoilt(lambda out: out._replace(maps={"there": shown}), ("there",))
    images = torch.rand(2, 3, 16, 16)
    _, maps = explain_maps(model, images)
    assert maps["there"].shape == maps["gradcam"].shape == (2, 8, 8)
    if size == 8:
        assert torch.equal(maps["there"], shown[:, 0])
    _, several = explain_maps(model, images, torch.tensor([[-1, 0], [-1, 2]]))
    assert several["there"].shape == (2, 2, 8, 8)
    torch.testing.assert_close(several["there"][:, 1], maps["there"])
