"""`explain_module`: any layer of any network, and a network that does not notice it was asked."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from ggam import create_model, explain_maps, explain_module
from ggam.explanations.any_module import LayerError
from ggam.explanations.explanation import weights_at_features

K = 4


class Net(nn.Module):
    """A small network whose parts can be swapped: stem → between → head."""

    def __init__(self, between: nn.Module | None = None, wrap: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.BatchNorm2d(6))
        self.between = between or nn.Identity()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, K)
        self.unused = nn.Conv2d(6, 6, 1)
        self.wrap = wrap or (lambda logits: logits)

    def forward(self, images: Tensor) -> Any:
        features = self.between(self.stem(images))
        if not isinstance(features, Tensor):
            features = features["map"] if isinstance(features, dict) else features[0].float()
        return self.wrap(self.head(self.drop(features.square().mean(dim=(2, 3)))))


def images(count: int = 2, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


def by_hand(model: Net, pictures: Tensor, k: int, relu: bool = False) -> tuple[Tensor, Tensor]:
    """Maps and β at the stem, from the derivative of Σ_c w_kc mean(f(A_c)²) written out."""
    model.eval()
    a = model.stem(pictures).detach().double()
    height, width = a.shape[2:]
    slope = (
        2
        * (a.relu() if relu else a)
        / (height * width)
        * model.head.weight[k].detach().double()[:, None, None]
    )
    beta = slope.mean(dim=(2, 3))
    return (beta[:, :, None, None] * a).sum(dim=1).relu(), beta


def test_values_by_hand() -> None:
    model = Net()
    wanted, beta = by_hand(model, images(), 3)
    explanation = explain_module(model, "stem", images(), torch.tensor([3, 3]))
    torch.testing.assert_close(explanation.maps.double(), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(explanation.weights.double(), beta, rtol=1e-5, atol=1e-8)
    assert torch.equal(explanation.features, model.stem(images()))
    assert torch.equal(explanation.logits, model(images()))
    assert not explanation.shown and explanation.classes.tolist() == [3, 3]


def test_the_predicted_class_is_the_default_and_a_layer_may_be_the_module_itself() -> None:
    model = Net()
    explanation = explain_module(model, model.stem[1], images())
    predicted = model.eval()(images()).argmax(dim=1)
    assert torch.equal(explanation.classes, predicted)
    named = explain_module(model, "stem.1", images(), predicted)
    assert torch.equal(explanation.maps, named.maps)


def test_several_classes_per_image_in_one_pass() -> None:
    model, passes = Net(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    classes = torch.tensor([[0, 3], [2, 1]])
    several = explain_module(model, "stem", images(), classes)
    assert len(passes) == 1
    assert several.maps.shape == (2, 2, 4, 6) and several.weights.shape == (2, 2, 6)
    for m in range(2):
        single = explain_module(model, "stem", images(), classes[:, m])
        torch.testing.assert_close(several.maps[:, m], single.maps)


def test_it_agrees_with_explain_on_our_own_models() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
    model = create_model(body, K, image_size=16)
    pictures = images(size=(16, 16))
    foreign = explain_module(model, "backbone.body", pictures)
    ours, maps = explain_maps(model, pictures)
    _, weights = weights_at_features(model, pictures, ours.classes)
    torch.testing.assert_close(foreign.maps, maps["gradcam-features"], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(foreign.weights, weights, rtol=1e-4, atol=1e-9)


def test_a_relu_in_place_behind_the_layer_does_not_change_what_was_seen() -> None:
    model = Net(nn.ReLU(inplace=True))
    wanted, beta = by_hand(model, images(), 0, relu=True)
    explanation = explain_module(model, "stem", images(), torch.tensor([0, 0]))
    torch.testing.assert_close(explanation.weights.double(), beta, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(explanation.maps.double(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.ReLU(inplace=True), nn.ReLU()])
def test_a_layer_that_returns_its_input_is_kept_from_later_changes(layer: nn.Module) -> None:
    class Careless(Net):
        def forward(self, images: Tensor) -> Tensor:
            before = self.stem(images)
            after = self.between(before)
            logits = self.head(after.mean(dim=(2, 3)))
            before.zero_()
            return logits

    model = Careless(layer)
    explanation = explain_module(model, "between", images())
    assert torch.equal(explanation.features, layer(model.eval().stem(images())))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training: bool, fails: bool) -> None:
    def wrap(logits: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("broken on purpose")
        return logits + 0 * torch.rand(())  # a draw in eval mode

    model = Net(wrap=wrap).train(training)
    model.stem.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            explain_module(model, "stem", images())
    else:
        explanation = explain_module(model, "stem", images())
        assert not any(part.requires_grad or part.is_inference() for part in explanation[:5])
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen
    assert all(p.grad is not None and p.grad.eq(3).all() for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [False, True])
def test_any_gradient_mode_gives_the_same(context: Any, frozen: bool) -> None:
    model, wanted = Net(), explain_module(Net(), "stem", images())
    model.requires_grad_(not frozen)
    with context():
        explanation = explain_module(model, "stem", images().requires_grad_(context is torch.enable_grad))
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
        named = explain_module(model, "stem", images(), wanted.classes.clone())
    assert torch.equal(explanation.maps, wanted.maps) and torch.equal(named.maps, wanted.maps)


def test_what_lies_below_the_layer_is_not_recorded() -> None:
    model, recorded = Net(), {}
    model.stem[0].register_forward_hook(lambda _, __, output: recorded.update(below=output.requires_grad))
    model.head.register_forward_hook(lambda _, __, output: recorded.update(above=output.requires_grad))
    explain_module(model, "stem.1", images())
    assert recorded == {"below": False, "above": True}


def test_a_network_that_switches_gradients_off_itself() -> None:
    class FrozenBelow(Net):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.stem(images)
            return self.head(features.square().mean(dim=(2, 3)))

    explanation = explain_module(FrozenBelow(), "stem", images())
    assert torch.equal(explanation.maps, explain_module(Net(), "stem", images()).maps)

    class Frozen(Net):
        @torch.no_grad()
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)

    assert torch.equal(explain_module(Frozen(), "stem", images()).maps, explanation.maps)

    class FrozenAbove(Net):
        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            with torch.no_grad():
                return self.head(features.mean(dim=(2, 3)))

    with pytest.raises(LayerError, match="no gradient of the logits reaches it"):
        explain_module(FrozenAbove(), "stem", images())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_by_autocast_and_throughout(kind: torch.dtype) -> None:
    model = Net()
    wanted = explain_module(model, "stem", images())
    with torch.autocast("cpu", kind):
        cast = explain_module(model, "stem", images(), wanted.classes)
    half = explain_module(model.to(kind), "stem", images().to(kind), wanted.classes)
    for got in (cast, half):
        assert got.maps.dtype == got.logits.dtype == got.features.dtype == torch.float32
        assert (got.maps - wanted.maps).norm() / wanted.maps.norm() < 0.05


class Pair(NamedTuple):
    features: Tensor
    note: str


class Tupled(nn.Module):
    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, features: Tensor) -> Any:
        return self.pack(1.5 * features)


@pytest.mark.parametrize("pack", [lambda x: (x, None), lambda x: Pair(x, "a note")])
def test_layers_that_return_tuples(pack: Callable[[Tensor], Any]) -> None:
    got = explain_module(Net(Tupled(pack)), "between", images())
    wanted = explain_module(Net(Tupled(lambda x: x)), "between", images())
    assert torch.equal(got.maps, wanted.maps)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: (logits, "more"),
        lambda logits: [logits],
    ],
)
def test_models_that_return_more_than_logits(wrap: Callable[[Tensor], Any]) -> None:
    wanted = explain_module(Net(), "stem", images())
    assert torch.equal(explain_module(Net(wrap=wrap), "stem", images()).maps, wanted.maps)


def test_an_empty_map_is_said_to_be_empty() -> None:
    model = Net()
    with torch.no_grad():
        model.head.weight[1].zero_()
    explanation = explain_module(model, "stem", images(), torch.tensor([[1, 2], [1, 2]]))
    assert explanation.empty[:, 0].all() and not explanation.empty[:, 1].any()
    assert not explanation.normalized[:, 0].any()
    assert explanation.normalized[:, 1].amax(dim=(-2, -1)).eq(1).all()


class Permuted(nn.Module):
    """The same map in another layout, for the next module to put back."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(*self.order).contiguous()


def test_channels_last_is_told_by_the_shape_of_the_images() -> None:
    wanted = explain_module(Net(), "stem", images())
    model = Net(nn.Sequential(Permuted(0, 2, 3, 1), Permuted(0, 3, 1, 2)))
    found = explain_module(model, "between.0", images())
    assert torch.equal(found.features, wanted.features) and torch.equal(found.maps, wanted.maps)


class Tokens(nn.Module):
    """(B, C, H, W) → (B, prefix + HW, C), and `Untokens` back."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        return torch.cat([torch.full_like(tokens[:, : self.prefix], 9.0), tokens], dim=1)


class Untokens(Tokens):
    def forward(self, features: Tensor) -> Tensor:
        return features[:, self.prefix :].transpose(1, 2).unflatten(2, (4, 6))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_are_put_back_into_their_grid(prefix: int) -> None:
    wanted = explain_module(Net(), "stem", images())
    model = Net(nn.Sequential(Tokens(prefix), Untokens(prefix)))
    found = explain_module(model, "between.0", images())
    torch.testing.assert_close(found.features, wanted.features)
    torch.testing.assert_close(found.maps, wanted.maps, rtol=1e-4, atol=1e-7)


def test_a_layout_function_reads_what_cannot_be_known() -> None:
    model = Net(nn.Sequential(Permuted(2, 0, 3, 1), Permuted(1, 3, 0, 2)))
    with pytest.raises(LayerError, match=r"returns \(4, 2, 6, 6\): expected .* for a batch of 2"):
        explain_module(model, "between.0", images())
    found = explain_module(model, "between.0", images(), layout=lambda x: x.permute(1, 3, 0, 2))
    assert torch.equal(found.maps, explain_module(Net(), "stem", images()).maps)
    with pytest.raises(LayerError, match=r"turns \(4, 2, 6, 6\) into \(4, 2, 36\): expected \(2, C, H, W\)"):
        explain_module(model, "between.0", images(), layout=lambda x: x.flatten(2))


class Shaped(nn.Module):
    """A layer with an output of any shape, and logits that depend on it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.register_buffer("output", torch.rand(2, *shape))
        self.weights = nn.Parameter(torch.rand(2, K))

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.get_buffer("output")).flatten(1).sum(dim=1, keepdim=True) * self.weights


@settings(max_examples=60)
@given(
    stride=st.sampled_from([4, 7, 8, 16]),
    cells=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    short=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    channels=st.integers(64, 256),
    last=st.booleans(),
)
def test_either_layout_is_recognised(
    stride: int, cells: tuple[int, int], short: tuple[int, int], channels: int, last: bool
) -> None:
    size = (stride * cells[0] - short[0], stride * cells[1] - short[1])  # rounded up, as padding does
    shape = (*cells, channels) if last else (channels, *cells)
    found = explain_module(Shaped(shape), "layer", torch.rand(2, 3, *size))
    assert found.features.shape == (2, channels, *cells)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((27, 9, 3), "cannot be told from images of 16×16"),
        ((6, 6, 6), r"\(2, 6, 6, 6\): which axes are height and width cannot be told from images of 16×16"),
        ((6, 2, 8), "cannot be told"),
        ((40, 5), "40 tokens: no grid of square patches of 16×16 images has as many"),
        ((5,), r"returns \(2, 5\): expected \(B, C, H, W\)"),
        ((2, 3, 4, 5), r"expected \(B, C, H, W\), \(B, H, W, C\) or \(B, N, C\)"),
    ],
)
def test_a_shape_that_cannot_be_read_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        explain_module(Shaped(shape), "layer", images(size=(16, 16)))


def test_proportions_that_fit_both_readings_are_not_guessed() -> None:
    for shape, size in (((27, 9, 3), (36, 12)), ((20, 7, 3), (28, 10))):
        with pytest.raises(LayerError, match="cannot be told"):
            explain_module(Shaped(shape), "layer", images(size=size))


def test_the_layout_can_be_named_where_it_cannot_be_told() -> None:
    model, pictures = Shaped((6, 2, 8)), images(size=(16, 16))
    assert explain_module(model, "layer", pictures, layout="NCHW").maps.shape == (2, 2, 8)
    assert explain_module(model, "layer", pictures, layout="NHWC").maps.shape == (2, 6, 2)
    wrong: Any = "HWCN"
    with pytest.raises(ValueError, match="layout 'HWCN': expected NCHW, NHWC or a function"):
        explain_module(model, "layer", pictures, layout=wrong)


class Twice(Net):
    def forward(self, images: Tensor) -> Any:
        return self.head(self.between(self.between(self.stem(images))).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Net(), "stm", "layer 'stm': the model has no such layer; did you mean stem"),
        (Net(), nn.Conv2d(3, 3, 1), "layer Conv2d: it is no part of the model"),
        (Net(), "unused", "layer 'unused' was not run in the forward pass: expected once"),
        (Twice(), "between", "layer 'between' was run 2 times"),
        (Net(Tupled(lambda x: {"map": x})), "between", "layer 'between' returns dict: expected a tensor"),
        (Net(Tupled(lambda x: (x.long(), x))), "between", "returns tuple: expected a tensor of floats"),
        (Net(wrap=lambda y: y.detach()), "stem", "no gradient of the logits reaches it"),
        (
            Net(wrap=lambda y: y[:, None]),
            "stem",
            r"a tensor of shape \(2, 1, 4\) .* expected logits \(2, K\)",
        ),
        (Net(wrap=lambda y: None), "stem", r"the model returns NoneType: expected logits \(2, K\)"),
    ],
)
def test_what_cannot_be_explained_is_named(model: nn.Module, layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_module(model, layer, images())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_side_branch_has_no_influence() -> None:
    class SideBranch(Net):
        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images)
            self.between(features)
            return self.head(features.mean(dim=(2, 3)))

    with pytest.raises(LayerError, match="does not lead to them"):
        explain_module(SideBranch(nn.Conv2d(6, 6, 1)), "between", images())


@pytest.mark.parametrize(
    ("pictures", "classes", "message"),
    [
        (torch.rand(3, 16, 16), None, r"images of shape \(3, 16, 16\): expected \(B, channels, h, w\)"),
        (images(), torch.tensor([0, K]), f"classes from 0 to {K}: expected 0 to {K - 1}"),
        (images(), torch.tensor([[0]]), "expected 2 integers, one per image"),
    ],
)
def test_input_that_does_not_fit_is_refused(pictures: Tensor, classes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_module(Net(), "stem", pictures, classes)
