"""The step against one written out by hand, and what it refuses."""

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
def test_a_step_by_hand(accumulated: int, clip: float | None) -> None:
    fabric, trained = build(clip=clip)
    by_hand = create_model("test_resnet", 3, pretrained=False, image_size=32, method="baseline").train()
    by_hand.load_state_dict(trained.model.state_dict())
    measured = []
    for images, labels in BATCHES[:accumulated]:
        loss = F.cross_entropy(by_hand(images).logits, labels)
        (loss / accumulated).backward()
        measured.append(loss.item())
    gradients = [p.grad for p in by_hand.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    scale = 1.0 if clip is None else min(1.0, clip / float(norm))
    assert clip is None or scale < 1
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            rate = 0.01 if name.startswith("backbone.") else 0.1
            assert parameter.grad is not None
            parameter -= rate * (scale * parameter.grad + 1e-4 * parameter)

    values = training_step(fabric, trained, BATCHES[:accumulated])
    assert float(values["loss"]) == pytest.approx(sum(measured) / accumulated, rel=1e-5)
    assert set(values) == {"loss", "classification", "accuracy"}
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(parameter, by_hand.get_parameter(name), rtol=1e-4, atol=1e-6)
        assert parameter.grad is None
    assert [group["lr"] for group in trained.optimizer.param_groups] != [0.1, 0.01]  # annealed


def terms_of(trained: Trained, monkeypatch: pytest.MonkeyPatch, **others: Tensor) -> None:
    plain = FineGrainedModel.losses
    monkeypatch.setattr(type(trained.model), "losses", lambda self, x, y: plain(self, x, y) | others)


@pytest.mark.parametrize("name", ["loss", "epoch", "val_loss", "seconds", "lr", "backbone_lr", "accuracy"])
def test_a_term_must_not_be_called_as_another_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, trained = build()
    terms_of(trained, monkeypatch, **{name: torch.ones(())})
    with pytest.raises(ValueError, match=f"a term of the loss is called '{name}'"):
        training_step(fabric, trained, BATCHES[:1])


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
