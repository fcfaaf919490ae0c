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
    assert output.attention is not None
    for b, image in enumerate(output.features.detach().numpy()):
        s, t, d = looped(model, image)
        for got, wanted in zip(output.attention, (s, t, d), strict=True):
            np.testing.assert_allclose(np.squeeze(got[b].detach().numpy()), wanted, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(output.logits[b].detach().numpy(), looped_logits(model, d), rtol=1e-9)


@pytest.mark.parametrize(
    ("spatial", "channel", "attended"),
    [(False, False, "A"), (False, True, "B"), (True, False, "A⊙T(A)"), (True, True, "A⊙T(B)")],
)
def test_what_is_pooled_in_each_row(spatial: bool, channel: bool, attended: str) -> None:
    """The definitions of D, spelled out once more without the reference."""
    output = sharpened(spatial=spatial, channel=channel)(images())
    assert output.attention is not None
    a = output.features
    b = output.attention.channel[:, :, None, None] * a
    of_a, of_b = (m.sum(1, keepdim=True) / m.sum((1, 2, 3), keepdim=True) for m in (a, b))
    wanted = {"A": a, "B": b, "A⊙T(A)": a * of_a, "A⊙T(B)": a * of_b}
    for name, value in wanted.items():
        assert torch.allclose(output.attention.features, value, rtol=1e-5) == (name == attended), name


@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_guidance_is_one_more_term_and_acts_through_s_alone(spatial: bool, channel: bool) -> None:
    guided = sharpened(spatial=spatial, channel=channel, guidance_weight=0.3).double()
    terms = guided.training_loss(images().double(), LABELS)
    total, classification, guidance = (gradients(term, guided) for term in terms)
    for name, gradient in total.items():
        wanted = classification.get(name, 0) + 0.3 * guidance.get(name, torch.zeros(()))
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)
    # β is a target: the guidance trains S, and what S is read from, never the classifier.
    assert {name.split(".")[0] for name in guidance} == {"attention", "backbone"}
    assert all(gradient.abs().max() > 0 for gradient in guidance.values())


@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_unguided_rows_have_no_guidance_gradient(spatial: bool, channel: bool) -> None:
    switches = {"spatial": spatial, "channel": channel}
    guided, unguided = sharpened(**switches), sharpened(**switches, guidance=False)
    terms = unguided.training_loss(images(), LABELS)
    assert torch.equal(terms.total, terms.classification) and not terms.guidance.requires_grad
    # It is measured all the same, and is the guided row's number.
    with_guidance = guided.training_loss(images(), LABELS)
    assert terms.guidance.item() == with_guidance.guidance.item() > 0
    wanted = gradients(with_guidance.classification, guided)
    got = gradients(terms.total, unguided)
    assert got.keys() == (wanted.keys() if channel else wanted.keys() - {"attention.reduce.weight"})
    assert all(torch.equal(got[name], wanted[name]) for name in got)


def test_guidance_that_reaches_the_attention_only_trains_nothing_below_it() -> None:
    shallow, deep = sharpened(guidance_reaches="attention"), sharpened()
    found, wanted = (
        gradients(model.training_loss(images(), LABELS).guidance, model) for model in (shallow, deep)
    )
    assert {name.split(".")[0] for name in found} == {"attention"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name])
    values = [model.training_loss(images(), LABELS) for model in (shallow, deep)]
    assert values[0].total.item() == pytest.approx(values[1].total.item(), rel=1e-6)


def test_guiding_t_too_adds_its_divergence_from_the_heat_map() -> None:
    both, channel = (sharpened(guided=guided, guidance_weight=0.3).double() for guided in ("both", "channel"))
    found, wanted = (model.training_loss(images().double(), LABELS) for model in (both, channel))
    output = both(images().double())
    heat = gradcam_map(output.features, gradcam_weights(output.logits, output.features))
    assert output.attention is not None
    extra = spatial_guidance(output.attention.spatial, heat).mean()
    assert found.guidance.item() == pytest.approx((wanted.guidance + extra).item(), rel=1e-9)
    assert found.total.item() == pytest.approx((wanted.total + 0.3 * extra).item(), rel=1e-9)
    assert "classifier" not in {name.split(".")[0] for name in gradients(found.guidance, both)}


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize(("spatial", "channel", "guidance"), ROWS)
def test_every_trainable_parameter_gets_a_gradient(
    spatial: bool, channel: bool, guidance: bool, warmup: int
) -> None:
    """DDP waits for all of them, in the warm-up too."""
    model = build(spatial=spatial, channel=channel, guidance=guidance, warmup=warmup).train()
    terms = model.training_loss(images(), LABELS)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert gradients(terms.total, model).keys() == trainable
    assert ("attention.expand.weight" in trainable) == (channel or guidance)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_row_without_anything_is_the_baseline(preset: str) -> None:
    plain = sharpened(preset=preset, spatial=False, channel=False, guidance=False)
    baseline = build("baseline")
    baseline.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("attention.")})
    got, wanted = plain(images()), baseline(images())
    assert torch.equal(got.logits, wanted.logits) and wanted.attention is None
    torch.testing.assert_close(plain.gradcam(got.features)[1], baseline.gradcam(got.features)[1])
    for model in (plain, baseline):
        model.train()
    losses = [model.training_loss(images(), LABELS).total for model in (plain, baseline)]
    assert torch.equal(*losses)
    theirs = gradients(losses[1], baseline)
    mine = gradients(losses[0], plain)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("classes", ["predicted", "label"])
@pytest.mark.parametrize("preset", PRESETS)
def test_loss_of_each_preset_equals_the_loops(preset: str, classes: str) -> None:
    """From the feature map to the three scalars, β by slopes, without any of the package's mathematics."""
    model = sharpened(preset=preset, classes=classes, guidance_weight=0.7).double()
    # Positive features: at the zeros of a ReLU the slope of Eq. (3)'s clamp is half its gradient.
    model.backbone.body = nn.Sequential(cast(nn.Sequential, model.backbone.body)[0], nn.Softplus())
    terms = model.training_loss(images().double(), LABELS)
    features = model.backbone(images().double()).detach().numpy()
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
    wanted = reference.total_loss(
        logits,
        LABELS.tolist(),
        channel,
        beta,
        0.7,
        {"default": "standardized", "paper": "sigmoid", "released": "softmax"}[preset],
        "one-way" if preset == "released" else "symmetric",
    )
    assert [term.item() for term in terms] == pytest.approx(wanted, rel=1e-5)


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
    wanted = gradients(plain.training_loss(images(), LABELS).total, plain)
    for epoch in (0, 1):
        model.epoch = epoch
        terms = model.training_loss(images(), LABELS)
        assert torch.equal(terms.total, terms.classification) and terms.guidance > 0
        got = gradients(terms.total, model)
        assert all(torch.equal(got[name], gradient) for name, gradient in wanted.items())
    model.epoch = 2
    terms = model.training_loss(images(), LABELS)
    assert terms.total.item() == pytest.approx((terms.classification + terms.guidance).item())


def test_a_frozen_backbone_can_still_be_guided() -> None:
    model, frozen = build(), build()
    frozen.backbone.requires_grad_(False)
    terms, wanted = (m.training_loss(images(), LABELS) for m in (frozen, model))
    assert all(torch.equal(a, b) for a, b in zip(terms, wanted, strict=True))
    terms.total.backward()
    for name, parameter in frozen.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


def test_autocast_keeps_head_and_loss_in_float32() -> None:
    model = sharpened().train()
    plain = model.training_loss(images(), LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
        terms = model.training_loss(images(), LABELS)
    assert output.logits.dtype == output.features.dtype == torch.float32
    assert output.attention is not None
    assert all(part.dtype == torch.float32 for part in output.attention)
    for got, wanted in zip(terms, plain, strict=True):
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(wanted.item(), rel=0.05, abs=0.01)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("spatial", "channel"), list(itertools.product([False, True], repeat=2)))
def test_gradcam_in_eval_mode_equals_autograd(spatial: bool, channel: bool, preset: str) -> None:
    model = sharpened(preset=preset, spatial=spatial, channel=channel)
    features = model.backbone(images())
    for at, classes in itertools.product(get_args(Place), (None, LABELS)):
        output, closed = model.gradcam(features, classes, at=at)
        _, wanted = FineGrainedModel._gradcam(model, features.detach(), classes, at)
        assert float((closed - wanted).norm() / wanted.norm()) < 1e-6
        assert torch.equal(output.logits, model(images()).logits)
        assert not closed.requires_grad and not output.logits.requires_grad


@pytest.mark.parametrize("method", ["ggam", "baseline"])
def test_gradcam_in_train_mode_sees_the_batch_statistics(method: str) -> None:
    model = build(method).train()
    features = model.backbone(images()).detach()
    _, beta = model.gradcam(features)
    again = build(method).train()
    leaf = features.clone().requires_grad_()
    logits = again.head(leaf).logits
    (wanted,) = torch.autograd.grad(logits.amax(dim=1).sum(), leaf)
    torch.testing.assert_close(beta, wanted.mean(dim=(2, 3)))
    assert not torch.allclose(beta, build(method).gradcam(features)[1], rtol=1e-2)


def test_the_classifiers_mode_decides_in_a_model_of_mixed_modes() -> None:
    wanted = build().gradcam(build().backbone(images()))[1]
    mixed = build().train()
    assert isinstance(mixed, GGAM)
    mixed.classifier.eval()
    torch.testing.assert_close(mixed.gradcam(mixed.backbone(images()))[1], wanted)


def test_diagnostics_say_whether_the_target_says_anything() -> None:
    model = sharpened(preset="paper")
    model.training_loss(images(), LABELS)
    assert model.diagnostics.keys() == {"accuracy", "channel_entropy", "target_entropy"}
    assert model.diagnostics["channel_entropy"] < 0.999
    assert model.diagnostics["target_entropy"] > 0.999  # sigmoid(β) is all but uniform
    uniform = sharpened(target="uniform")
    uniform.training_loss(images(), LABELS)
    assert uniform.diagnostics["target_entropy"].item() == pytest.approx(1)
    assert not any(value.requires_grad for value in model.diagnostics.values())


def test_training_pulls_s_towards_the_target() -> None:
    model = sharpened(guidance_weight=5.0)
    optimizer = torch.optim.SGD(model.attention.parameters(), lr=0.02)
    guidance = []
    for _ in range(30):
        terms = model.training_loss(images(), LABELS)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        guidance.append(terms.guidance.item())
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
