"""Calibration: a temperature that makes probabilities mean what they say, and how far they are from it."""

import numpy as np
from torch import Tensor

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""The range in which a temperature is sought."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature t for which softmax(y / t) explains held-out labels best.

    Temperature scaling of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): the mean
    cross-entropy is convex in 1/t, so the root of its derivative, mean(E[y] - y_label), is bracketed
    and halved. No prediction changes, only how sure it is.

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
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low * high) ** -0.5


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, from 0 to 1.

    Σ_m |B_m|/N · |accuracy(B_m) - mean confidence(B_m)| over 15 bins B_m of equal width, (0, 1/15] to
    (14/15, 1]; Guo et al. (2017), Eq. (3).

    Args:
        confidences: the probability of each predicted class (N,).
        right: whether it is the label (N,).

    Raises:
        ValueError: if there are no pictures, or the shapes differ.
    """
    confidences, right = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if confidences.shape != right.shape or confidences.ndim != 1 or not len(right):
        raise ValueError(
            f"confidences {confidences.shape} and right {right.shape}: expected (N,) for both, N ≥ 1"
        )
    bins = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - confidences, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))
