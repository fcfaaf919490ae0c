"""The contract of all methods: precision, Grad-CAM in any mode, and the shared classifier."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggam.backbones.build import create_backbone
from ggam.equations.gradcam import gradcam_weights
from ggam.methods.base import Classifier, FineGrainedModel, ModelConfig, Output, accuracy


class ConvolutionHead(FineGrainedModel):
    """A method whose head has no closed form here."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        config = ModelConfig("test", None, None, 16, ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3)
        super().__init__(create_backbone(body, image_size=16), config, options)
        self.convolution = nn.Conv2d(6, 3, 3)

    def head(self, features: Tensor) -> Output:
        return Output(self.convolution(features).square().mean(dim=(2, 3)), features, None)


def randomised(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        for layer in classifier:
            if isinstance(layer, nn.BatchNorm1d):
                assert layer.running_mean is not None and layer.running_var is not None
                layer.running_var.uniform_(0.01, 3)
                for tensor in (layer.running_mean, layer.weight, layer.bias):
                    tensor.normal_()
    return classifier.eval()


@pytest.mark.parametrize("classes", [None, torch.tensor([2, 0, 1, 2])])
def test_classifier_gradient_equals_autograd(classes: Tensor | None) -> None:
    torch.manual_seed(0)
    classifier = randomised(Classifier(9, 3, hidden=11)).double()
    pooled = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    logits = classifier(pooled)
    chosen = logits.argmax(dim=1) if classes is None else classes
    (wanted,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), pooled)
    got_logits, got = classifier.logit_gradient(pooled.detach(), classes)
    assert torch.equal(got_logits, logits)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_classifier_gradient_survives_large_activations() -> None:
    classifier = randomised(Classifier(9, 3, hidden=11))
    _, gradient = classifier.logit_gradient(torch.full((2, 9), 1e6))
    assert gradient.isfinite().all()


def test_a_method_without_a_head_says_so() -> None:
    model = FineGrainedModel(ConvolutionHead().backbone, ConvolutionHead().config, None)
    with pytest.raises(NotImplementedError, match=r"FineGrainedModel does not implement head\(\)"):
        model(torch.rand(1, 3, 16, 16))


def test_the_default_loss_is_cross_entropy() -> None:
    model = ConvolutionHead()
    images, targets = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    terms = model.training_loss(images, targets)
    logits = model(images).logits
    wanted = nn.functional.cross_entropy(logits, targets)
    assert terms.total.item() == terms.classification.item() == pytest.approx(wanted.item())
    assert terms.guidance.item() == 0
    assert model.diagnostics["accuracy"].item() == accuracy(logits, targets).item()


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 6.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1, 0])).item() == 0.5


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("classes", [None, torch.tensor([2, 0])])
def test_gradcam_of_any_head_in_any_gradient_mode(context: Any, classes: Tensor | None) -> None:
    model = ConvolutionHead().eval()
    features = torch.rand(2, 6, 8, 8)
    leaf = features.clone().requires_grad_()
    wanted = gradcam_weights(model.head(leaf).logits, leaf, classes)
    with context():
        output, beta = model.gradcam(features, classes)
    torch.testing.assert_close(beta, wanted)
    assert torch.equal(output.features, features)
    assert not any(tensor.requires_grad for tensor in (output.logits, output.features, beta))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradcam_of_half_precision_features_is_float32() -> None:
    model = ConvolutionHead().eval()
    features = torch.rand(2, 6, 8, 8)
    exact, wanted = model.gradcam(features)
    with torch.autocast("cpu", torch.bfloat16):
        output, beta = model.gradcam(features.bfloat16(), exact.logits.argmax(dim=1))
    assert beta.dtype == output.logits.dtype == output.features.dtype == torch.float32
    torch.testing.assert_close(beta, wanted, rtol=0.05, atol=0.02 * float(wanted.abs().max()))


def test_only_the_backbone_is_pretrained() -> None:
    model = ConvolutionHead()
    backbone = {id(parameter) for parameter in model.pretrained_parameters()}
    assert backbone == {id(parameter) for parameter in model.backbone.parameters()}
    assert not backbone & {id(parameter) for parameter in model.convolution.parameters()}
