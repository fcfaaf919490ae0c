"""What guidance costs in training: a step of each kind, side by side.

Prints time and peak memory of a training step (forward, backward, update) of the same network, as
ratios to plain cross-entropy. The naive kind does what the authors' scripts do: a second backward
pass through the whole network to get the gradient of y_k.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --backbone vgg19 --image-size 448 --batch-size 32
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import ggam
from ggam.methods.base import FineGrainedModel
from ggam.methods.ggam import GGAM
from rounds import arguments, measure, show, title


def losses(model: FineGrainedModel, images: Tensor, targets: Tensor) -> Tensor:
    """What is minimised: the sum of the method's terms."""
    return torch.stack(list(model.losses(images, targets).values())).sum()


def step(model: FineGrainedModel, loss: Callable[[], Tensor], autocast: torch.autocast) -> Callable[[], None]:
    """One training step as a call."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            total = loss()
        total.backward()
        optimizer.step()

    return run


def naive_loss(model: GGAM, images: Tensor, targets: Tensor) -> Tensor:
    """GGAM's loss with β from a backward pass through the whole network, as in the authors' scripts."""
    output = model(images)
    output.features.retain_grad()
    output.logits.amax(dim=1).sum().backward(retain_graph=True)
    assert output.features.grad is not None
    beta = output.features.grad.mean(dim=(2, 3))
    for parameter in model.parameters():
        parameter.grad = None
    return model.loss(output.logits, targets, output.maps["channel"], beta).total


def main() -> None:
    """Measure and print."""
    parser = arguments("What guidance costs in training.", precision="bf16")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(200, (args.batch_size,), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def build(**options: Any) -> FineGrainedModel:
        model = ggam.create_model(args.backbone, 200, pretrained=False, image_size=args.image_size, **options)
        return model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    plain, attention, guided, naive = (
        build(method="baseline"),
        build(guidance=False),
        build(),
        build(),
    )
    assert isinstance(naive, GGAM)
    same = build(guidance=False)
    kinds = {
        "attention, cross-entropy only": step(
            same, lambda: F.cross_entropy(same(images).logits, targets), autocast
        ),
        "baseline (no attention)": step(plain, lambda: losses(plain, images, targets), autocast),
        "ggam, guidance off": step(attention, lambda: losses(attention, images, targets), autocast),
        "ggam": step(guided, lambda: losses(guided, images, targets), autocast),
        "ggam, naive second backward": step(naive, lambda: naive_loss(naive, images, targets), autocast),
    }
    show(title("Training step", args), measure(kinds, args.rounds, device))


if __name__ == "__main__":
    main()
