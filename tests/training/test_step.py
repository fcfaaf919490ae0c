"""The step against one written out by hand, and what it refuses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam import create_model
from ggam.methods.base import FineGrainedModel
from ggam.training.loop import build_fabric
from ggam.training.recipe import MachineRecipe, OptimizationRecipe, Recipe
from ggam.training.step import Losses, Trained, TrainingDiverged, build_optimizer, training_step

CPU = MachineRecipe(accelerator="cpu", precision="fp32")
BATCHES = [
    (torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)), torch.tensor([0, 1, 2, 0]))
    for seed in range(2)
]


def build(**recipe: Any) -> tuple[Any, Trained]:
    torch.manual_seed(0)
    model = create_model("test_resnet", 3, pretrained=False, image_size=32, method="baseline").train()
    fabric = build_fabric(Recipe(machine=CPU))
    optimizer, schedule = build_optimizer(model, OptimizationRecipe(lr=0.1, backbone_lr=0.01, **recipe), 4)
    losses = fabric.setup_module(Losses(model))
    return fabric, Trained(model, losses, optimizer, schedule, recipe.get("clip"))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_steps_by_hand(accumulated: int, clip: float | None) -> None:
    """Gradient, clipping, weight decay, momentum and the cosine."""
    fabric, trained = build(clip=clip)
    by_hand = create_model("test_resnet", 3, pretrained=False, image_size=32, method="baseline").train()
    by_hand.load_state_dict(trained.model.state_dict())
    speed = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
    for step in range(2):
        measured = []
        by_hand.zero_grad()
        for images, labels in BATCHES[:accumulated]:
            loss = F.cross_entropy(by_hand(images).logits, labels)
            (loss / accumulated).backward()
            measured.append(loss.item())
        norm = torch.stack([p.grad.norm() for p in by_hand.parameters() if p.grad is not None]).norm()
        scale = 1.0 if clip is None else min(1.0, clip / float(norm))
        assert clip is None or scale < 1
        cosine = (1 + math.cos(math.pi * step / 4)) / 2  # of four steps
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                assert parameter.grad is not None
                speed[name] = 0.9 * speed[name] + scale * parameter.grad + 1e-4 * parameter
                parameter -= (0.01 if name.startswith("backbone.") else 0.1) * cosine * speed[name]

        values = training_step(fabric, trained, BATCHES[:accumulated])
        assert float(values["loss"]) == pytest.approx(sum(measured) / accumulated, rel=1e-4)
        assert set(values) == {"loss", "classification", "accuracy"}
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(parameter, by_hand.get_parameter(name), rtol=1e-3, atol=1e-5)
        assert parameter.grad is None


def terms_of(trained: Trained, monkeypatch: pytest.MonkeyPatch, **others: Tensor) -> None:
    plain = FineGrainedModel.losses
    monkeypatch.setattr(type(trained.model), "losses", lambda self, x, y: plain(self, x, y) | others)


@pytest.mark.parametrize("name", ["loss", "epoch", "val_loss", "seconds", "lr", "backbone_lr", "accuracy"])
def test_a_term_must_not_be_called_as_another_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, trained = build()
    terms_of(trained, monkeypatch, **{name: torch.ones(())})
    with pytest.raises(ValueError, match=f"losses: '{name}' is a column of the log already"):
        training_step(fabric, trained, BATCHES[:1])


@pytest.mark.parametrize("name", ["loss", "epoch", "lr"])
def test_nor_must_a_diagnostic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, trained = build()
    plain = FineGrainedModel.losses

    def losses(self: FineGrainedModel, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        terms = plain(self, images, labels)
        self.diagnostics[name] = torch.ones(())
        return terms

    monkeypatch.setattr(type(trained.model), "losses", losses)
    with pytest.raises(ValueError, match=f"losses: '{name}' is a column of the log already"):
        training_step(fabric, trained, BATCHES[:1])


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "returned {}: expected one term at least"),
        (torch.ones(()), "expected one term at least, by its name"),
        ({"pull": torch.ones(4)}, r"'pull' is of shape \(4,\), expected a scalar tensor"),
        ({"pull": 1.0}, "'pull' is 1.0, expected a scalar tensor"),
    ],
)
def test_losses_are_named_scalars(terms: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, trained = build()
    monkeypatch.setattr(type(trained.model), "losses", lambda self, x, y: terms)
    with pytest.raises(ValueError, match=f"Baseline.losses.*{message}"):
        training_step(fabric, trained, BATCHES[:1])


def test_a_term_that_one_batch_has_counts_for_that_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, trained = build()
    plain, calls = FineGrainedModel.losses, []

    def losses(self: FineGrainedModel, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        return plain(self, images, labels) | ({"pair": torch.tensor(2.0)} if len(calls) == 2 else {})

    monkeypatch.setattr(type(trained.model), "losses", losses)
    values = training_step(fabric, trained, BATCHES)
    assert float(values["pair"]) == 2
    assert float(values["loss"]) == pytest.approx(float(values["classification"]) + 1)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_the_term_that_diverged_is_named_and_nothing_is_updated(
    broken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabric, trained = build()
    terms_of(trained, monkeypatch, fine=torch.ones(()), wild=torch.tensor(broken))
    before = [parameter.clone() for parameter in trained.model.parameters()]
    with pytest.raises(TrainingDiverged, match="the term 'wild' of the loss is"):
        training_step(fabric, trained, BATCHES[:1])
    assert all(torch.equal(a, b) for a, b in zip(before, trained.model.parameters(), strict=True))


def test_losses_is_a_module_over_the_models_own_parameters() -> None:
    _, trained = build()
    assert isinstance(trained.losses, nn.Module)
    assert {id(p) for p in trained.losses.parameters()} == {id(p) for p in trained.model.parameters()}
