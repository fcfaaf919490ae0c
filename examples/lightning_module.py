"""A GGAM model in a Lightning module of your own, with its losses and diagnostics logged.

python lightning_module.py
"""

import ggam  # isort: skip  # before lightning: it makes torchvision importable beside a CPU-only torch

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    """The model, its loss and its optimiser; logging, devices and precision are Lightning's."""

    def __init__(self, model: ggam.FineGrainedModel, lr: float) -> None:
        super().__init__()
        self.model = model
        self.lr = lr

    def on_train_epoch_start(self) -> None:
        """Some methods begin their guidance after a few epochs."""
        self.model.epoch = self.current_epoch

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Eq. 6: what is minimised is the sum of the terms; they and the diagnostics are logged."""
        terms = self.model.losses(*batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({"loss": loss, **terms, **self.model.diagnostics})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Accuracy on pictures that were held out."""
        images, labels = batch
        self.log("val_accuracy", (self.model(images).logits.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """What has pre-trained weights learns at a tenth of the rate, as in the paper."""
        groups = [
            {"params": group.parameters, "lr": group.factor * (self.lr / 10 if group.pretrained else self.lr)}
            for group in self.model.parameter_groups()
        ]
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9, weight_decay=1e-4)


def main() -> None:
    """Learn the brightest colour of random pictures."""
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.rand(48, 3, 32, 32)
    images[range(48), labels] += 0.5
    parts = TensorDataset(images[:36], labels[:36]), TensorDataset(images[36:], labels[36:])
    train, val = (DataLoader(part, batch_size=12) for part in parts)

    model = ggam.create_model("test_resnet", num_classes=3, pretrained=False, image_size=32)
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(Classifier(model, lr=0.05), train, val)
    print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
