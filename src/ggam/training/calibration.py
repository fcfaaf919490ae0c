"""Calibration: a temperature that makes probabilities mean what they say."""

from scipy.optimize import brentq
from torch import Tensor

TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is sought."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature t for which softmax(y / t) explains held-out labels best.

    Temperature scaling of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): the mean
    cross-entropy is convex in 1/t, so the root of its derivative, mean(E[y] - y_label), is its minimum.
    No prediction changes, only how sure it is.

    Args:
        logits: y (N, K), of pictures that were not trained on.
        labels: (N,), integer.

    Returns:
        t within `TEMPERATURES`; 1, the logits as they are, where every picture is recognised (any
        sharper softmax would explain those labels better, which says nothing about other pictures), or
        where there are no pictures.

    Raises:
        ValueError: if the shapes do not fit, or a logit is not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: expected (N, K) and (N,)"
        )
    logits, labels = logits.detach().cpu().double(), labels.cpu().long()
    if not logits.isfinite().all():
        raise ValueError("fit_temperature: a logit is not finite; the training diverged")
    if bool((logits.argmax(dim=1) == labels).all()):
        return 1.0
    own = logits.gather(1, labels[:, None]).squeeze(1)

    def slope(inverse: float) -> float:
        expected = ((logits * inverse).softmax(dim=1) * logits).sum(dim=1)
        return float((expected - own).mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    return 1 / float(brentq(slope, low, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]
