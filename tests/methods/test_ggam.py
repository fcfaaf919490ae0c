"""The method: Table 3's eight rows, the presets, the loss of a batch, and Grad-CAM of the whole."""

import itertools
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reference
from ggam import create_model, gradcam_map, gradcam_weights
from ggam.equations.guidance import spatial_guidance
from ggam.methods.base import FineGrainedModel, Place
from ggam.methods.ggam import GGAM, PRESETS, GGAMOptions

ROWS = list(itertools.product([False, True], repeat=3))  # spatial, channel, guidance
CHANNELS = 8


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 3, 1, 2])


def build(method: str = "ggam", **options: Any) -> FineGrainedModel:
    """A small model around a module, in eval mode, with statistics as after some training."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, stride=4, padding=1), nn.ReLU())
    model = create_model(body, 4, method=method, image_size=16, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.001, 0.01)
    return model.eval()


def sharpened(**options: Any) -> GGAM:
    """One whose S is far from uniform."""
    model = build(**{"reduction": 2, **options})
    assert isinstance(model, GGAM)
    with torch.no_grad():
        model.attention.expand.weight.mul_(10)
    return model


def looped(model: GGAM, image: np.ndarray) -> tuple[reference.Vector, np.ndarray, np.ndarray]:
    """S, T and D of one feature map."""
    return reference.attend(
        image,
        model.attention.reduce.weight.detach().numpy(),
        model.attention.expand.weight.detach().numpy(),
        channel=model.options.channel,
        spatial=model.options.spatial,
        norm=str(model.options.spatial_norm),
        descriptor_norm=bool(model.options.descriptor_norm),
    )


def looped_logits(model: GGAM, attended: np.ndarray) -> reference.Vector:
    parameters = {name: value.numpy() for name, value in model.classifier.state_dict().items()}
    return reference.classify(reference.pool(attended, str(model.options.pool)), parameters)


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """What a backward pass of `loss` leaves in each parameter; absent where nothing flows."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("spatial", "channel", "guidance"), ROWS)
def test_each_row_of_table_3_computes_what_it_says(
    spatial: bool, channel: bool, guidance: bool, preset: str
) -> None:
    model = sharpened(spatial=spatial, channel=channel, guidance=guidance, preset=preset).double()
    output = model(images().double())
    parts = (output.maps["channel"], output.maps["spatial"], output.attended)
    for b, image in enumerate(output.features.detach().numpy()):
        s, t, d = looped(model, image)
        for got, wanted in zip(parts, (s, t, d), strict=True):
            np.testing.assert_allclose(np.squeeze(got[b].detach().numpy()), wanted, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(output.logits[b].detach().numpy(), looped_logits(model, d), rtol=1e-9)


@pytest.mark.parametrize(
    ("spatial", "channel", "attended"),
    [(False, False, "A"), (False, True, "B"), (True, False, "A⊙T(A)"), (True, True, "A⊙T(B)")],
)
def test_what_is_pooled_in_each_row(spatial: bool, channel: bool, attended: str) -> None:
    """The definitions of D, spelled out once more without the reference."""
    output = sharpened(spatial=spatial, channel=channel)(images())
    a = output.features
    b = output.maps["channel"][:, :, None, None] * a
    of_a, of_b = (m.sum(1, keepdim=True) / m.sum((1, 2, 3), keepdim=True) for m in (a, b))
    wanted = {"A": a, "B": b, "A⊙T(A)": a * of_a, "A⊙T(B)": a * of_b}
    for name, value in wanted.items():
        assert torch.allclose(output.attended, value, rtol=1e-5) == (name == attended), name


@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_guidance_is_one_more_term_and_acts_through_s_alone(spatial: bool, channel: bool) -> None:
    guided = sharpened(spatial=spatial, channel=channel, guidance_weight=0.3).double()
    terms = guided.losses(images().double(), LABELS)
    assert list(terms) == ["classification", "guidance"]
    assert terms["guidance"].item() == pytest.approx(0.3 * guided.diagnostics["divergence"].item())
    guidance = gradients(terms["guidance"], guided)
    # β is a target: the guidance trains S, and what S is read from, never the classifier.
    assert {name.split(".")[0] for name in guidance} == {"attention", "backbone"}
    assert all(gradient.abs().max() > 0 for gradient in guidance.values())


@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_unguided_rows_have_no_guidance_gradient(spatial: bool, channel: bool) -> None:
    switches = {"spatial": spatial, "channel": channel}
    guided, unguided = sharpened(**switches), sharpened(**switches, guidance=False)
    terms, with_guidance = (model.losses(images(), LABELS) for model in (unguided, guided))
    assert list(terms) == ["classification"]
    # The divergence is measured all the same, and is the guided row's number.
    measured = [model.diagnostics["divergence"] for model in (unguided, guided)]
    assert measured[0].item() == measured[1].item() > 0 and not measured[0].requires_grad
    wanted = gradients(with_guidance["classification"], guided)
    got = gradients(terms["classification"], unguided)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in got)


def test_guidance_that_reaches_the_attention_only_trains_nothing_below_it() -> None:
    shallow, deep = sharpened(guidance_reaches="attention"), sharpened()
    found, wanted = (
        gradients(model.losses(images(), LABELS)["guidance"], model) for model in (shallow, deep)
    )
    assert {name.split(".")[0] for name in found} == {"attention"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name])
    values = [model.losses(images(), LABELS) for model in (shallow, deep)]
    assert values[0]["guidance"].item() == pytest.approx(values[1]["guidance"].item(), rel=1e-6)


def test_guiding_t_too_adds_its_divergence_from_the_heat_map() -> None:
    both, channel = (sharpened(guided=guided, guidance_weight=0.3).double() for guided in ("both", "channel"))
    found, wanted = (model.losses(images().double(), LABELS)["guidance"] for model in (both, channel))
    output = both(images().double())
    heat = gradcam_map(output.features, gradcam_weights(output.logits, output.features))
    extra = spatial_guidance(output.maps["spatial"], heat).mean()
    assert found.item() == pytest.approx((wanted + 0.3 * extra).item(), rel=1e-9)
    assert "classifier" not in {name.split(".")[0] for name in gradients(found, both)}


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize(("spatial", "channel", "guidance"), ROWS)
def test_only_what_acts_gets_a_gradient(spatial: bool, channel: bool, guidance: bool, warmup: int) -> None:
    """What nothing trains gets none at all, not a zero, so that no momentum or weight decay moves it."""
    model = build(spatial=spatial, channel=channel, guidance=guidance, warmup=warmup).train()
    reached = gradients(torch.stack(list(model.losses(images(), LABELS).values())).sum(), model)
    attention = {name for name, _ in model.named_parameters() if name.startswith("attention.")}
    assert reached.keys() | attention == {name for name, _ in model.named_parameters()}
    acts = channel or (guidance and not warmup)
    assert (attention <= reached.keys()) if acts else not attention & reached.keys()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_row_without_anything_is_the_baseline(preset: str) -> None:
    plain = sharpened(preset=preset, spatial=False, channel=False, guidance=False)
    baseline = build("baseline")
    baseline.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("attention.")})
    got, wanted = plain(images()), baseline(images())
    assert torch.equal(got.logits, wanted.logits) and not wanted.maps
    torch.testing.assert_close(plain.gradcam(images())[2], baseline.gradcam(images())[2])
    for model in (plain, baseline):
        model.train()
    losses = [model.losses(images(), LABELS)["classification"] for model in (plain, baseline)]
    assert torch.equal(*losses)
    theirs = gradients(losses[1], baseline)
    mine = gradients(losses[0], plain)
    assert mine.keys() == theirs.keys()  # the attention rests
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("classes", ["predicted", "label"])
@pytest.mark.parametrize("preset", PRESETS)
def test_loss_of_each_preset_equals_the_loops(preset: str, classes: str) -> None:
    """From the feature map to the three scalars, β by slopes, without any of the package's mathematics."""
    model = sharpened(preset=preset, classes=classes, guidance_weight=0.7).double()
    # Positive features: at the zeros of a ReLU the slope of Eq. (3)'s clamp is half its gradient.
    model.backbone.body = nn.Sequential(cast(nn.Sequential, model.backbone.body)[0], nn.Softplus())
    terms = model.losses(images().double(), LABELS)
    features = model.features(images().double())["last"].detach().numpy()
    logits, channel, beta = [], [], []
    for image, label in zip(features, LABELS.tolist(), strict=True):
        s, _, d = looped(model, image)
        y = looped_logits(model, d)
        k = int(np.argmax(y)) if classes == "predicted" else label

        def of_features(a: np.ndarray, k: int = k) -> float:
            return looped_logits(model, looped(model, a)[2])[k]

        def of_attended(d: np.ndarray, k: int = k) -> float:
            return looped_logits(model, d)[k]

        logits.append(y)
        channel.append(s)
        at = (of_attended, d) if preset == "released" else (of_features, image)
        beta.append(reference.gradcam_weights(*at, step=1e-6))
    _, classification, divergence = reference.total_loss(
        logits,
        LABELS.tolist(),
        channel,
        beta,
        0.7,
        {"default": "standardized", "paper": "sigmoid", "released": "softmax"}[preset],
        "one-way" if preset == "released" else "symmetric",
    )
    assert terms["classification"].item() == pytest.approx(classification, rel=1e-5)
    assert terms["guidance"].item() == pytest.approx(0.7 * divergence, rel=1e-5)


def test_presets_are_those_of_the_method_table() -> None:
    table = {
        "default": (True, "ratio", "average", "features", "predicted", "standardized", "symmetric", 1.0),
        "paper": (False, "ratio", "average", "features", "predicted", "sigmoid", "symmetric", 1.0),
        "released": (False, "sigmoid", "max", "attended", "predicted", "softmax", "one-way", 1.0),
    }
    columns = (
        "descriptor_norm",
        "spatial_norm",
        "pool",
        "gradient_at",
        "classes",
        "target",
        "divergence",
        "guidance_weight",
    )
    assert {name: tuple(values[c] for c in columns) for name, values in PRESETS.items()} == table
    for name in PRESETS:
        options = GGAMOptions(preset=name)
        assert tuple(getattr(options, c) for c in columns) == table[name]
        assert (options.channel, options.spatial, options.guidance) == (True, True, True)
        assert (options.warmup, options.reduction) == (0, 16)


def test_any_field_overrides_the_preset() -> None:
    options = GGAMOptions(preset="released", pool="average", descriptor_norm=False, guidance_weight=0.0)
    assert (options.pool, options.descriptor_norm, options.guidance_weight) == ("average", False, 0.0)
    assert options.target == "softmax"


def test_warmup_leaves_the_guidance_out_for_so_many_epochs() -> None:
    model, plain = build(warmup=2), build(guidance=False)
    wanted = gradients(plain.losses(images(), LABELS)["classification"], plain)
    for epoch in (0, 1):
        model.epoch = epoch
        terms = model.losses(images(), LABELS)
        assert list(terms) == ["classification"] and model.diagnostics["divergence"] > 0
        got = gradients(terms["classification"], model)
        assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())
    model.epoch = 2
    assert model.losses(images(), LABELS)["guidance"].requires_grad


def test_a_frozen_backbone_can_still_be_guided() -> None:
    model, frozen = build(), build()
    frozen.backbone.requires_grad_(False)
    terms, wanted = (m.losses(images(), LABELS) for m in (frozen, model))
    assert all(torch.equal(terms[name], wanted[name]) for name in ("classification", "guidance"))
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in frozen.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


def test_autocast_keeps_head_and_loss_in_float32() -> None:
    model = sharpened().train()
    plain = model.losses(images(), LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
        terms = model.losses(images(), LABELS)
    assert output.logits.dtype == output.features.dtype == output.attended.dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in output.maps.values())
    assert terms.keys() == plain.keys()
    for got, wanted in zip(terms.values(), plain.values(), strict=True):
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(wanted.item(), rel=0.05, abs=0.01)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_gradcam_in_eval_mode_equals_autograd(spatial: bool, channel: bool, preset: str) -> None:
    model = sharpened(preset=preset, spatial=spatial, channel=channel)
    for at, classes in itertools.product(get_args(Place), (None, LABELS)):
        output, _, closed = model.gradcam(images(), classes, at=at)
        recorded = model(images())
        place = recorded.features if at == "features" else recorded.attended
        wanted = gradcam_weights(recorded.logits, place, classes)
        assert float((closed - wanted).norm() / wanted.norm()) < 1e-6
        assert torch.equal(output.logits, recorded.logits)
        assert not closed.requires_grad and not output.logits.requires_grad


@pytest.mark.parametrize("method", ["ggam", "baseline"])
def test_gradcam_in_train_mode_sees_the_batch_statistics(method: str) -> None:
    model, again = build(method).train(), build(method).train()
    _, _, beta = model.gradcam(images(), at="features")
    output = again(images())
    (wanted,) = torch.autograd.grad(output.logits.amax(dim=1).sum(), output.features)
    torch.testing.assert_close(beta, wanted.mean(dim=(2, 3)))
    assert not torch.allclose(beta, build(method).gradcam(images(), at="features")[2], rtol=1e-2)


def test_the_classifiers_mode_decides_in_a_model_of_mixed_modes() -> None:
    wanted = build().gradcam(images())[2]
    mixed = build().train()
    assert isinstance(mixed, GGAM)
    mixed.classifier.eval()
    torch.testing.assert_close(mixed.gradcam(images())[2], wanted)


def test_diagnostics_say_whether_the_target_says_anything() -> None:
    model = sharpened(preset="paper")
    model.losses(images(), LABELS)
    assert model.diagnostics.keys() == {"accuracy", "divergence", "channel_entropy", "target_entropy"}
    assert model.diagnostics["channel_entropy"] < 0.999
    assert model.diagnostics["target_entropy"] > 0.999  # sigmoid(β) is all but uniform
    uniform = sharpened(target="uniform")
    uniform.losses(images(), LABELS)
    assert uniform.diagnostics["target_entropy"].item() == pytest.approx(1)
    assert not any(value.requires_grad for value in model.diagnostics.values())


def test_training_pulls_s_towards_the_target() -> None:
    model = sharpened(guidance_weight=5.0)
    optimizer = torch.optim.SGD(model.attention.parameters(), lr=0.02)
    guidance = []
    for _ in range(30):
        terms = model.losses(images(), LABELS)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        guidance.append(terms["guidance"].item())
    assert guidance[-1] < 0.5 * guidance[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "theirs"}, "preset='theirs': expected one of default, paper, released"),
        ({"target": "entropy"}, "target='entropy': expected one of standardized"),
        ({"divergence": "js"}, "divergence='js': expected one of symmetric, one-way"),
        ({"classes": "all"}, "classes='all': expected one of predicted, label"),
        ({"gradient_at": "B"}, "gradient_at='B': expected one of features, attended"),
        ({"spatial_norm": "tanh"}, "spatial_norm='tanh': expected one of ratio, softmax, sigmoid"),
        ({"pool": "sum"}, "pool='sum': expected one of average, max"),
        ({"warmup": -1}, "expected warmup ≥ 0"),
        ({"reduction": 0}, "reduction ≥ 1"),
        ({"guidance_weight": -1.0}, "finite guidance_weight ≥ 0"),
        ({"guidance_weight": float("nan")}, "finite guidance_weight ≥ 0"),
        ({"guidance_weight": float("inf")}, "finite guidance_weight ≥ 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GGAMOptions(**options)
