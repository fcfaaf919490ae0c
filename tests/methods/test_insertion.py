"""What senet and cbam share: nothing changes before training, everything can change in it."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from ggam import create_model, explain, explain_maps, gradcam_map, load_model, save_model
from ggam.backbones.build import Backbone, create_backbone
from ggam.backbones.weights import BackboneError
from ggam.equations.gradcam import gradcam_weights
from ggam.methods.insertion import (
    Attended,
    InsertedAttention,
    InsertionOptions,
    OpenGate,
    UnitScale,
    insert_attention,
)
from ggam.methods.registry import METHODS
from ggam.training.recipe import OptimizationRecipe
from ggam.training.step import build_optimizer

INSERTED = ["senet", "cbam"]
PLACEMENTS = ["blocks", "last"]
BLOCKS = {"resnet50": 16, "torchvision/resnet50": 16, "vgg19": 5, "torchvision/vgg19": 5}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 0])

both = pytest.mark.parametrize("method", INSERTED)
everywhere = pytest.mark.parametrize("placement", PLACEMENTS)


def lively(module: nn.Module) -> nn.Module:
    """The backbone's norms as after training: timm starts the last of each residual branch at 0.

    That would hide the branch. The norms of cbam are of another class, and stay as they are.
    """
    generator = torch.Generator().manual_seed(7)
    for norm in module.modules():
        if type(norm) is nn.BatchNorm2d:
            assert norm.running_mean is not None and norm.running_var is not None
            for tensor, low, high in (
                (norm.weight, 0.5, 1.0),
                (norm.bias, -0.2, 0.2),
                (norm.running_mean, -0.2, 0.2),
                (norm.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return module


def small(method: str, backbone: str | nn.Module = "test_resnet", **options: Any) -> InsertedAttention:
    """The same backbone and classifier for every method, and modules that start as the identity."""
    torch.manual_seed(0)
    model = create_model(backbone, 3, method=method, pretrained=False, image_size=32, **options)
    return model  # pyright: ignore[reportReturnType]


def attention_modules(model: nn.Module) -> list[nn.Module]:
    inserted: list[nn.Module] = [m.attention for m in model.modules() if isinstance(m, Attended)]
    return inserted or [model.get_submodule("attention")]


def awaken(model: nn.Module) -> None:
    """Give the inserted modules weights as training would, so that they are the identity no more."""
    torch.manual_seed(3)
    for module in attention_modules(model):
        for parameter in module.parameters():
            parameter.data.normal_(std=0.5)


@pytest.fixture(scope="module", params=BLOCKS)
def untouched(request: pytest.FixtureRequest) -> tuple[str, Backbone]:
    torch.manual_seed(0)
    backbone = create_backbone(request.param, pretrained=False, image_size=64)
    return request.param, backbone


def test_insertion_leaves_features_bit_equal(untouched: tuple[str, Backbone]) -> None:
    name, plain = untouched
    lively(plain)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = plain.eval()(images)["last"]
        # Batch statistics, in a copy: they move the running ones.
        wanted_in_training = copy.deepcopy(plain).train()(images)["last"]
    assert wanted.std() > 0
    for method in INSERTED:
        inserted = copy.deepcopy(plain)
        insert_attention(inserted, _builder(method), name)
        assert sum(isinstance(m, Attended) for m in inserted.modules()) == BLOCKS[name]
        with torch.no_grad():
            assert torch.equal(inserted.eval()(images)["last"], wanted)
            assert torch.equal(inserted.train()(images)["last"], wanted_in_training)
            awaken(inserted)
            assert not torch.allclose(inserted.eval()(images)["last"], wanted, rtol=0.01)


def _builder(method: str) -> Any:
    kind = METHODS[method]
    assert issubclass(kind, InsertedAttention)
    return kind.build_attention


@both
@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_start_as_the_plain_networks(method: str, placement: str, dtype: torch.dtype) -> None:
    plain, model = small("baseline"), small(method, placement=placement)
    lively(plain)
    lively(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert torch.equal(model(IMAGES).logits, plain(IMAGES).logits)
        assert torch.equal(model.eval()(IMAGES).logits, plain.eval()(IMAGES).logits)


def test_the_gate_starts_open() -> None:
    x = torch.zeros(3, requires_grad=True)
    gate = OpenGate()(x)
    assert gate.tolist() == [1.0, 1.0, 1.0]
    gate.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.5, 0.5, 0.5]  # 2 σ'(0)
    assert OpenGate()(torch.tensor([-200.0, 200.0])).tolist() == [0.0, 2.0]


@both
@given(exponent=st.integers(-30, 30), seed=st.integers(0, 99), training=st.booleans())
def test_gates_at_unit_scale_are_blind_to_the_scale(
    method: str, exponent: int, seed: int, training: bool
) -> None:
    module = UnitScale(_builder(method)(8)).train(training)
    for parameter in module.parameters():
        parameter.data.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    features = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(seed))
    factor = 2.0 ** min(max(exponent, -18), 30)  # below 2⁻²⁰ a map counts as empty
    assert torch.equal(module(features * factor), module(features) * factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_scale_shows_a_root_mean_square_near_one_and_rounds_nothing(dtype: torch.dtype) -> None:
    seen: list[Tensor] = []

    class Watcher(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x

    generator = torch.Generator().manual_seed(0)
    scales = 10.0 ** torch.arange(-5.0, 9.0)[:, None, None, None]
    features = (torch.randn(14, 6, 4, 4, generator=generator) * scales).to(dtype).requires_grad_()
    attended = UnitScale(Watcher())(features)
    assert torch.equal(attended, features)
    roots = seen[0].detach().float().square().mean(dim=(1, 2, 3)).sqrt()
    assert roots.min() > 0.7 and roots.max() < 1.42
    attended.float().sum().backward()
    assert features.grad is not None and (features.grad == 1).all()
    empty = torch.zeros(1, 6, 2, 2, dtype=dtype, requires_grad=True)
    UnitScale(Watcher())(empty).sum().backward()
    assert empty.grad is not None and (empty.grad == 1).all()


@both
@pytest.mark.parametrize(
    ("backbone", "placement", "scaled"),
    [
        ("torchvision/squeezenet1_1", "blocks", True),
        ("test_resnet", "blocks", False),
        ("test_resnet", "last", True),
    ],
)
def test_modules_without_a_norm_before_them_see_unit_scale(
    method: str, backbone: str, placement: str, scaled: bool
) -> None:
    model = small(method, backbone, placement=placement)
    assert {isinstance(module, UnitScale) for module in attention_modules(model)} == {scaled}


@pytest.mark.parametrize("backbone", ["resnet18", "torchvision/resnet18", "resnet26", "torchvision/resnet50"])
def test_attention_weighs_the_branch_before_the_addition(backbone: str) -> None:
    body = create_backbone(backbone, pretrained=False, image_size=32).body
    block: Any = next(m for m in body.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck"))
    lively(block)
    block.eval()
    x = torch.rand(2, block.conv1.in_channels, 6, 6)
    plain = block(x)
    insert_attention(block, lambda channels: _Half(), backbone)
    shortcut = x if block.downsample is None else block.downsample(x)
    branch = x
    for conv, norm in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        last = isinstance(norm, Attended)
        branch = (norm[0] if last else norm)(conv(branch))
        branch = branch if last else branch.relu()
    if hasattr(block, "conv3"):
        branch = block.bn3[0](block.conv3(branch))
    torch.testing.assert_close(plain, (branch + shortcut).relu())
    torch.testing.assert_close(block(x), (0.5 * branch + shortcut).relu())


class _Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


@pytest.mark.parametrize(
    ("backbone", "stage", "widths"),
    [
        ("vgg11_bn", -2, [64, 128, 256, 512, 512]),  # ends before the last pooling
        ("torchvision/squeezenet1_1", None, [64, 128, 256, 512]),
        ("torchvision/squeezenet1_1", "features.7", [64, 128, 256]),
    ],
)
def test_stacks_get_attention_at_the_end_of_each_stage(
    backbone: str, stage: int | str | None, widths: list[int]
) -> None:
    body = create_backbone(backbone, pretrained=False, stage=stage, image_size=64)
    seen: list[int] = []

    def build(channels: int) -> nn.Module:
        seen.append(channels)
        return nn.Conv2d(channels, channels, 1)  # refuses any other number of channels

    insert_attention(body, build, backbone)
    assert seen == widths
    body(torch.rand(1, 3, 64, 64))
    for module in body.modules():
        for layer, following in pairwise([*module.children(), None]):
            if isinstance(layer, Attended):
                assert following is None or isinstance(following, nn.MaxPool2d)


@both
@everywhere
def test_gradients_reach_the_module_at_the_first_step_and_all_of_it_at_the_second(
    method: str, placement: str
) -> None:
    # SqueezeNet: without the norms that timm starts at 0.
    model = small(method, "torchvision/squeezenet1_1", placement=placement)
    optimizer, _ = build_optimizer(model, OptimizationRecipe(lr=0.1, backbone_lr=0.001), total_steps=100)
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        model.losses(IMAGES.repeat(1, 1, 2, 2), TARGETS)["classification"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        grads = [[p.grad for p in m.parameters()] for m in attention_modules(model)]
        reached.append([sum(bool(g.any()) for g in module if g is not None) for module in grads])
        optimizer.step()
    count = len(list(attention_modules(model)[0].parameters()))
    assert all(0 < moved < count for moved in reached[0])
    assert all(moved == count for moved in reached[1])


@both
@everywhere
def test_new_parameters_learn_at_the_classifiers_rate(method: str, placement: str) -> None:
    model, plain = small(method, placement=placement), small("baseline")
    shapes = [p.shape for p in plain.backbone.parameters()]
    _, pretrained = model.parameter_groups()
    assert pretrained.pretrained and sorted(p.shape for p in pretrained.parameters) == sorted(shapes)
    optimizer, _ = build_optimizer(model, OptimizationRecipe(lr=0.2, backbone_lr=0.02), total_steps=10)
    fast = {id(p) for p in optimizer.param_groups[0]["params"]}
    new = [p for module in attention_modules(model) for p in module.parameters()]
    assert new and {id(p) for p in [*new, *model.classifier.parameters()]} == fast


@both
@everywhere
def test_a_few_steps_fit_a_batch(method: str, placement: str) -> None:
    model = small(method, placement=placement)
    optimizer, _ = build_optimizer(model, OptimizationRecipe(lr=0.05, backbone_lr=0.02), total_steps=1000)
    losses = []
    for _ in range(6):
        loss = model.losses(IMAGES, TARGETS)["classification"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@both
@everywhere
def test_half_precision_ends_at_the_head(method: str, placement: str) -> None:
    model = small(method, placement=placement)
    awaken(model)
    with torch.autocast("cpu", torch.bfloat16):
        output, loss = model(IMAGES), model.losses(IMAGES, TARGETS)["classification"]
    loss.backward()
    assert output.logits.dtype == output.features.dtype == torch.float32
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@both
@everywhere
def test_evaluation_is_deterministic_and_blind_to_the_batch(method: str, placement: str) -> None:
    model = small(method, placement=placement).eval()
    awaken(model)
    with torch.no_grad():
        together = model(IMAGES).logits
        assert torch.equal(model(IMAGES).logits, together)
        alone = torch.cat([model(image[None]).logits for image in IMAGES])
    torch.testing.assert_close(alone, together)


@both
@everywhere
def test_grad_cam_is_taken_behind_the_module_and_before_it_as_well(method: str, placement: str) -> None:
    model = small(method, placement=placement).eval()
    awaken(model)
    features = model.features(IMAGES)["last"].detach().requires_grad_()
    attended = model.attention(features)
    logits = model.classifier(attended.mean(dim=(2, 3)))
    explanation, maps = explain_maps(model, IMAGES)
    torch.testing.assert_close(explanation.logits, logits)
    torch.testing.assert_close(explanation.weights, gradcam_weights(logits, attended))
    assert model.has_closed_form and not explanation.shown
    torch.testing.assert_close(explanation.features, features.detach())
    assert (attended is features) is (placement == "blocks")
    torch.testing.assert_close(explanation.attended, attended.detach())
    assert list(maps) == ["gradcam"] + ["gradcam-features"] * (placement == "last")
    if placement == "last":
        before = gradcam_map(features.detach(), gradcam_weights(logits, features))
        torch.testing.assert_close(maps["gradcam-features"], before)


@both
@everywhere
@pytest.mark.parametrize(
    ("backbone", "stage"),
    [("test_resnet", None), ("resnet10t", -2), ("torchvision/squeezenet1_1", "features.9")],
)
def test_round_trip_is_bit_equal(
    tmp_path: Path, method: str, placement: str, backbone: str, stage: int | str | None
) -> None:
    model = small(method, backbone, stage=stage, placement=placement)
    awaken(model)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config and loaded.options == model.options
    assert type(loaded) is type(model) and loaded.config.options == {"placement": placement}
    assert torch.equal(explain(loaded, IMAGES).logits, explain(model, IMAGES).logits)


@both
def test_any_module_takes_attention_after_it_but_not_inside(method: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    before = str(body)
    with pytest.raises(BackboneError, match=r"a module of your own: .*\(--\w+\.placement last\)"):
        small(method, body)
    assert str(body) == before
    assert small(method, body, placement="last")(IMAGES).logits.shape == (4, 3)


@both
@pytest.mark.parametrize(
    "backbone", ["test_convnext", "torchvision/shufflenet_v2_x0_5", "torchvision/mobilenet_v2"]
)
def test_unknown_structures_are_refused_in_one_line(method: str, backbone: str) -> None:
    with pytest.raises(BackboneError) as refusal:
        small(method, backbone)
    assert f"backbone {backbone!r}: expected a ResNet or a stack like VGG" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    small(method, backbone, placement="last")


def test_a_placement_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="placement='first': expected one of blocks, last"):
        InsertionOptions(placement="first")  # pyright: ignore[reportArgumentType]
