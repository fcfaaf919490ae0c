"""How far a model's probabilities are from what they promise."""

import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error

BINS = 15


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, from 0 to 1.

    Σ_m |B_m|/N · |accuracy(B_m) - mean confidence(B_m)| over 15 bins B_m of equal width; Guo et al., "On
    Calibration of Modern Neural Networks" (ICML 2017), Eq. (3).

    Args:
        confidences: the probability of each predicted class (N,).
        right: whether it is the label (N,).

    Raises:
        ValueError: if there are no pictures, or the shapes differ.
    """
    if confidences.shape != right.shape or confidences.ndim != 1 or not len(right):
        raise ValueError(
            f"confidences {confidences.shape} and right {right.shape}: expected (N,) for both, N ≥ 1"
        )
    sure, hit = torch.from_numpy(confidences), torch.from_numpy(right)
    return float(binary_calibration_error(sure, hit.long(), n_bins=BINS, norm="l1"))
