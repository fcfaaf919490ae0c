"""The classifier that every one-pass method has: from the pooled map to the logits."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Classifier(nn.Sequential):
    """pool(D) (B, C) → y (B, K): BatchNorm, Linear(C, 512), BatchNorm, ELU, Linear(512, K).

    The paper says «several fully connected layers»; this is the authors' choice. The first BatchNorm
    matters: D is as small as 1/(HW) of A, and a bare Linear would have to grow as much.
    """

    def __init__(self, channels: int, num_classes: int, hidden: int = 512) -> None:
        super().__init__(
            nn.BatchNorm1d(channels),
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ELU(),
            nn.Linear(hidden, num_classes),
        )


def logit_gradient(classifier: nn.Module, pooled: Tensor, classes: Tensor) -> Tensor | None:
    """The gradient of each image's y_k at its pooled vector, without autograd.

    It holds for `Classifier` itself in eval mode, where BatchNorm is a fixed scale and shift.

    Args:
        classifier: what maps the pooled vectors to y.
        pooled: pool(D) (B, C).
        classes: k for each image (B,).

    Returns:
        w (B, C); None for another classifier, or one in train mode.
    """
    if type(classifier) is not Classifier or classifier.training:
        return None
    norm_in, linear_in, norm_hidden, _, linear_out = classifier
    assert isinstance(norm_in, _BatchNorm) and isinstance(norm_hidden, _BatchNorm)  # SyncBatchNorm, after DDP
    assert isinstance(linear_in, nn.Linear) and isinstance(linear_out, nn.Linear)
    hidden = norm_hidden(linear_in(norm_in(pooled)))
    elu_slope = torch.where(hidden > 0, torch.ones_like(hidden), hidden.exp())
    d_hidden = linear_out.weight[classes] * elu_slope * _scale(norm_hidden)
    return (d_hidden @ linear_in.weight) * _scale(norm_in)


def _scale(norm: _BatchNorm) -> Tensor:
    """What BatchNorm multiplies by in eval mode."""
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)
