"""The LightningModule: one training step, one validation step, and what is logged of them."""

import math

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ggam.equations.guidance import LossTerms
from ggam.methods.base import FineGrainedModel
from ggam.training.recipe import OptimizationRecipe, build_optimizer

_PROGRESS_BAR = {
    "loss": "loss",
    "classification": "cross-entropy",
    "guidance": "guidance",
    "accuracy": "accuracy",
    "channel_entropy": "H(S)",
    "target_entropy": "H(target)",
}


class TrainingDiverged(ValueError):
    """The loss is not a number any more."""


class TrainingModule(LightningModule):
    """Trains a fine-grained model by its own `training_loss`.

    Args:
        model: what is trained.
        recipe: how.
        seed: each step draws its random numbers (dropout, stochastic depth) from (seed, step, rank),
            so that a resumed run goes on as an uninterrupted one.
    """

    def __init__(self, model: FineGrainedModel, recipe: OptimizationRecipe, seed: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.seed = seed
        self.val_accuracy = MulticlassAccuracy(model.num_classes, average="micro")
        self.val_loss = MeanMetric()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD and the cosine, stepped after each optimiser step."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = build_optimizer(self.model, self.recipe, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Tie the step's random numbers to its number."""
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        torch.manual_seed(hash((self.seed, step, self.global_rank)) % 2**63)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The total loss of one batch; logs its terms, the accuracy and the method's diagnostics."""
        images, targets = batch
        self.model.epoch = self.current_epoch
        terms = self.model.training_loss(images.to(memory_format=torch.channels_last), targets)
        self._require_finite(terms, batch_idx)
        values = {
            "loss": terms.total.detach(),
            "classification": terms.classification.detach(),
            "guidance": terms.guidance.detach(),
            **self.model.diagnostics,
        }
        self.log_dict(
            {f"train/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(targets),
        )
        shown = {short: values[name] for name, short in _PROGRESS_BAR.items() if name in values}
        self.log_dict(shown, prog_bar=True, logger=False, on_step=True, on_epoch=False)
        # Lightning divides by the full window.
        return terms.total * (self.trainer.accumulate_grad_batches / self._window(batch_idx))

    def on_validation_start(self) -> None:
        """Give all ranks the running statistics of the first: those that are saved."""
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy and cross-entropy of one batch of the validation part."""
        images, targets = batch
        logits = self.model(images.to(memory_format=torch.channels_last)).logits
        self.val_accuracy(logits, targets)
        self.val_loss(F.cross_entropy(logits, targets, reduction="none"))
        self.log("val/accuracy", self.val_accuracy, prog_bar=True, on_epoch=True, batch_size=len(targets))
        self.log("val/loss", self.val_loss, on_epoch=True, batch_size=len(targets))

    def _window(self, batch_idx: int) -> int:
        """How many batches make up the optimiser step of this one; the epoch's last may have fewer."""
        full, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        rest = batches % full
        return rest if batch_idx >= batches - rest else full

    def _require_finite(self, terms: LossTerms, batch_idx: int) -> None:
        """Stop all ranks together: one alone would leave the others waiting for its gradients.

        Raises:
            TrainingDiverged: saying where the loss stopped being a number, and the likely cause.
        """
        values = torch.stack([terms.total.detach(), terms.classification.detach()])
        total, classification = self.trainer.strategy.reduce(values, reduce_op="mean").tolist()
        if math.isfinite(total):
            return
        where = f"the loss is {total} in epoch {self.current_epoch + 1}, step {batch_idx + 1}"
        if math.isfinite(classification):
            cause = "the guidance term overflowed: use --target standardized or a smaller --guidance-weight"
        else:
            rates = f"{self.recipe.lr} and {self.recipe.backbone_lr}"
            cause = f"the learning rates ({rates}) are probably too high: lower them, or clip with --clip 1"
        raise TrainingDiverged(f"{where}; {cause}")
