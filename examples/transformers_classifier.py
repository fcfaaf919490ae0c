"""A Hugging Face image classifier, trained with GGAM's guidance, and heat maps of one that is as it was.

python transformers_classifier.py overlay.png
"""

import sys

import ggam  # isort: skip  # before transformers: it makes torchvision importable beside a CPU-only torch

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTConfig
from transformers.models.vit import ViTForImageClassification

from ggam.drawing.overlays import overlay


class Features(nn.Module):
    """The feature map of a transformers backbone, images (B, 3, h, w) → (B, C, H, W)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Without the pooling that follows."""
        return self.body(images).last_hidden_state


def main(target: str) -> None:
    """Train a few steps on random pictures, and write a picture with its heat map."""
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 64, 64), torch.tensor([0, 1, 2, 0, 1, 2])
    names = {0: "auk", 1: "booby", 2: "crake"}
    # In earnest: ResNetForImageClassification.from_pretrained("microsoft/resnet-50").
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=names)
    classifier = ResNetForImageClassification(config)

    # 1. Its backbone under GGAM's attention and loss.
    assert isinstance(classifier.resnet, ResNetModel)
    model = ggam.create_model(Features(classifier.resnet), num_classes=3, pretrained=False, image_size=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(3):
        terms = model.train().losses(images, labels)
        optimizer.zero_grad()
        (terms["classification"] + terms["guidance"]).backward()
        optimizer.step()
        print(f"step {step + 1}: " + ", ".join(f"{name} {term:.4f}" for name, term in terms.items()))
    heat = ggam.explain(model, images).maps[0]
    pixels = (images[0] * 255).byte().permute(1, 2, 0).numpy()
    overlay(Image.fromarray(pixels), heat).save(target)

    # 2. A classifier as it is, a convolutional one and a vision transformer: only the heat maps.
    found = ggam.explain_module(classifier, "resnet.encoder.stages.1", images)
    print(f"ResNet: classes {found.classes.tolist()}, maps {tuple(found.maps.shape)}")
    config = ViTConfig(
        image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, id2label=names
    )
    vit = ViTForImageClassification(config)
    # It reads its class token, so the tokens that still matter are those in front of the last attention.
    found = ggam.explain_module(vit, "vit.layers.1.layernorm_before", images)
    print(f"ViT: classes {found.classes.tolist()}, maps {tuple(found.maps.shape)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
