"""GGAM in a plain PyTorch training loop: three lines in the network and the loop, marked (1), (2), (3).

python plain_pytorch.py
"""

import torch
from torch import Tensor, nn

import ggam


class Network(nn.Module):
    """A small convolutional network with the attention between its features and its classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.attention = ggam.ChannelSpatialAttention(32, descriptor_norm=True)  # (1) Eq. 1-3
        # BatchNorm first: the attended map is as small as 1/(HW) of the features.
        self.classifier = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, num_classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, h, w) → logits (B, K), features A (B, C, H, W), channel attention S (B, C)."""
        features = self.body(images)
        channel, _, attended = self.attention(features)
        return self.classifier(attended.mean(dim=(2, 3))), features, channel


def main() -> None:
    """Learn the colour of a small patch somewhere in a noisy picture."""
    torch.manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.rand(96, 3, 32, 32) * 0.5
    for image, label in zip(images, labels, strict=True):
        top, left = torch.randint(0, 24, (2,)).tolist()
        image[label, top : top + 8, left : left + 8] += 0.7

    network = Network(num_classes=3)
    loss_function = ggam.GGAMLoss(weight=1.0)  # Eq. 5-6, in place of nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(8):
        logits, features, channel = network(images)
        beta = ggam.gradcam_weights(logits, features)  # (2) Eq. 4; the graph is kept, no .grad is touched
        terms = loss_function(logits, labels, channel, beta)  # (3) cross-entropy and guidance
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        print(
            f"epoch {epoch + 1}: loss {terms.total:.3f}, guidance {terms.guidance:.4f}, {accuracy:.0%} right"
        )


if __name__ == "__main__":
    main()
