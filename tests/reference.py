"""The paper's equations as loops over plain numbers: slow, and sharing no code with the package.

Written from the table of equations alone. Arrays are float64 NumPy, one image at a time: A is
(C, H, W). Nothing here knows about torch.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Vector = list[float]
Parameters = Mapping[str, np.ndarray]


def global_average(a: Array) -> Vector:
    """GAP(A): the mean of each channel over the map."""
    channels, height, width = a.shape
    means = []
    for c in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                total += a[c, i, j]
        means.append(total / (height * width))
    return means


def standardise(values: Vector, eps: float) -> Vector:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + eps) for v in values]


def matrix_times(matrix: Array, vector: Vector) -> Vector:
    rows = []
    for row in matrix:
        total = 0.0
        for weight, value in zip(row, vector, strict=True):
            total += weight * value
        rows.append(total)
    return rows


def softmax(values: Vector) -> Vector:
    largest = max(values)
    powers = [math.exp(v - largest) for v in values]
    return [p / sum(powers) for p in powers]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def channel_attention(a: Array, w1: Array, w2: Array, descriptor_norm: bool = False) -> Vector:
    """Eq. (1): S = softmax(W2 ReLU(W1 GAP(A)))."""
    descriptor = global_average(a)
    if descriptor_norm:
        descriptor = standardise(descriptor, 1e-5)
    hidden = [max(0.0, h) for h in matrix_times(w1, descriptor)]
    return softmax(matrix_times(w2, hidden))


def weighted_map(a: Array, s: Vector) -> Array:
    """B = S ⊙ A."""
    b = np.zeros_like(a)
    for c in range(a.shape[0]):
        b[c] = s[c] * a[c]
    return b


def spatial_attention(b: Array, norm: str = "ratio") -> Array:
    """Eq. (3): the channel sum over its sum over space; negative values of B count as 0."""
    channels, height, width = b.shape
    sums = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                sums[i, j] += max(0.0, b[c, i, j]) if norm == "ratio" else b[c, i, j]
    if norm == "sigmoid":
        return np.array([[sigmoid(value) for value in row] for row in sums])
    if norm == "softmax":
        return np.array(softmax(list(sums.ravel()))).reshape(height, width)
    mass = sum(sums.ravel())
    if mass == 0:
        return np.full((height, width), 1 / (height * width))
    return sums / mass


def attended_map(a: Array, t: Array) -> Array:
    """Eq. (2): D = A ⊙ T."""
    d = np.zeros_like(a)
    for c in range(a.shape[0]):
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                d[c, i, j] = a[c, i, j] * t[i, j]
    return d


def attend(
    a: Array,
    w1: Array,
    w2: Array,
    *,
    channel: bool = True,
    spatial: bool = True,
    norm: str = "ratio",
    descriptor_norm: bool = False,
) -> tuple[Vector, Array, Array]:
    """S, T and D of one row of Table 3."""
    s = channel_attention(a, w1, w2, descriptor_norm)
    b = weighted_map(a, s) if channel else a
    t = spatial_attention(b, norm)
    d = attended_map(a, t) if spatial else b
    return s, t, d


def pool(d: Array, how: str) -> Vector:
    if how == "max":
        return [max(channel.ravel()) for channel in d]
    return global_average(d)


def classify(pooled: Vector, parameters: Parameters) -> Vector:
    """BatchNorm with running statistics, linear, BatchNorm, ELU, linear; `parameters` by torch's names."""
    hidden = batch_norm(pooled, parameters, "0.")
    hidden = linear(hidden, parameters, "1.")
    hidden = batch_norm(hidden, parameters, "2.")
    hidden = [h if h > 0 else math.exp(h) - 1 for h in hidden]
    return linear(hidden, parameters, "4.")


def batch_norm(values: Vector, parameters: Parameters, prefix: str) -> Vector:
    mean, variance = parameters[prefix + "running_mean"], parameters[prefix + "running_var"]
    scale, shift = parameters[prefix + "weight"], parameters[prefix + "bias"]
    return [(v - mean[i]) / math.sqrt(variance[i] + 1e-5) * scale[i] + shift[i] for i, v in enumerate(values)]


def linear(values: Vector, parameters: Parameters, prefix: str) -> Vector:
    products = matrix_times(parameters[prefix + "weight"], values)
    return [p + b for p, b in zip(products, parameters[prefix + "bias"], strict=True)]


def gradcam_weights(logit: Callable[[Array], float], a: Array, step: float = 1e-5) -> Vector:
    """Eq. (4): β_c = 1/(HW) Σ_ij ∂y_k/∂A_cij, where `logit` gives y_k of a map.

    The sum over i, j is the slope of y_k along "add the same h everywhere in channel c", taken by
    central differences.
    """
    channels, height, width = a.shape
    beta = []
    for c in range(channels):
        up, down = a.copy(), a.copy()
        up[c] += step
        down[c] -= step
        beta.append((logit(up) - logit(down)) / (2 * step) / (height * width))
    return beta


def heat_map(a: Array, beta: Vector) -> Array:
    """L_map = ReLU(Σ_c β_c A_c)."""
    height, width = a.shape[1:]
    values = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for c in range(a.shape[0]):
                total += beta[c] * a[c, i, j]
            values[i, j] = max(0.0, total)
    return values


def target(beta: Vector, name: str) -> Vector:
    """β̃ of Eq. (5), in each reading."""
    if name == "uniform":
        return [1 / len(beta) for _ in beta]
    if name == "softmax":
        return softmax(beta)
    if name == "standardized":
        beta = standardise(beta, 0.0)
    gates = [sigmoid(b) for b in beta]
    return gates if name == "sigmoid-unnormalized" else [g / sum(gates) for g in gates]


def kl(p: Vector, q: Vector) -> float:
    total = 0.0
    for a, b in zip(p, q, strict=True):
        total += a * math.log(a / b)
    return total


def symmetric_kl(p: Vector, q: Vector) -> float:
    """Eq. (5)."""
    return (kl(p, q) + kl(q, p)) / 2


def cross_entropy(logits: Vector, label: int) -> float:
    return -math.log(softmax(logits)[label])


def total_loss(
    logits: list[Vector],
    labels: list[int],
    channel: list[Vector],
    beta: list[Vector],
    weight: float,
    name: str,
    divergence: str,
) -> tuple[float, float, float]:
    """Eq. (6) over a batch: total, classification, guidance."""
    classification = sum(cross_entropy(y, k) for y, k in zip(logits, labels, strict=True)) / len(labels)
    guidance = 0.0
    for s, b in zip(channel, beta, strict=True):
        wanted = target(b, name)
        guidance += symmetric_kl(s, wanted) / len(labels) if divergence == "symmetric" else kl(s, wanted)
    return classification + weight * guidance, classification, guidance
