"""Copies of a picture that are not equal byte by byte: re-encoded, resized, recoloured or mirrored.

A picture is known by a grey thumbnail. Pairs worth a look are found by a 64-bit perceptual hash, the
signs of the lowest frequencies of the thumbnail, and an index of quarters of it; a pair counts as
copies where the edges in the thumbnails agree too. (Smooth skies and lawns are alike in many
photographs, edges are not.)
"""

import math

import numpy as np

SIDE = 32
"""Height and width of a thumbnail."""
MAX_DISTANCE = 7
"""Bits in which the hashes of copies may differ: with four quarters, one differs by one bit at most."""
MIN_AGREEMENT = 0.92
"""The least correlation between the edges of copies; 1 is equal but for brightness and contrast."""

_PART = 4096  # thumbnails taken at a time, to bound the memory
_CANDIDATES = 1 << 22  # pairs taken at a time
_FREQUENCIES = sorted(np.ndindex(11, 11), key=lambda place: (sum(place), place))[1:65]


def near_copies(thumbnails: np.ndarray) -> np.ndarray:
    """The pairs of pictures that show the same, also where one is mirrored.

    Args:
        thumbnails: (N, SIDE, SIDE), grey. Pictures of a single colour are copies of nothing.

    Returns:
        (M, 2) indices, the smaller first, each pair once, in ascending order. Of many copies of one
        picture, each is paired with the first at least.
    """
    count = len(thumbnails)
    both = np.concatenate([thumbnails, thumbnails[:, :, ::-1]])
    hashes, first, group = np.unique(perceptual_hashes(both), return_index=True, return_inverse=True)
    equal = np.stack([first[group], np.arange(len(both))], axis=1)
    pairs = np.concatenate([equal, np.sort(first[close_pairs(hashes)], axis=1)])
    # What two mirrored pictures have in common, the pictures themselves have too.
    pairs = pairs[(pairs[:, 0] < count) & (pairs[:, 0] != pairs[:, 1] % count)]
    alike = [
        part[np.einsum("ij,ij->i", _edges(both[part[:, 0]]), _edges(both[part[:, 1]])) >= MIN_AGREEMENT]
        for part in np.array_split(pairs, max(1, len(pairs) // _PART))
    ]
    return np.unique(np.sort(np.concatenate(alike) % count, axis=1), axis=0)


def _edges(thumbnails: np.ndarray) -> np.ndarray:
    """The Laplacian of each thumbnail as a vector of length 1, or shorter where there are no edges."""
    thumbnails = thumbnails.astype(np.float32)
    inner = 4 * thumbnails[:, 1:-1, 1:-1]
    inner -= thumbnails[:, :-2, 1:-1] + thumbnails[:, 2:, 1:-1]
    inner -= thumbnails[:, 1:-1, :-2] + thumbnails[:, 1:-1, 2:]
    edges = inner.reshape(len(inner), (SIDE - 2) ** 2)
    edges -= edges.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(edges, axis=1, keepdims=True)
    return edges / np.maximum(norms, SIDE)  # one grey level of deviation is noise


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """A number for each picture, of which few bits change with what leaves the picture the same.

    Args:
        thumbnails: (N, SIDE, SIDE).

    Returns:
        (N,) uint64: for each of the 64 lowest frequencies of the cosine transform but the constant,
        whether it is above their median.
    """
    steps, frequencies = np.arange(SIDE) + 0.5, np.arange(11)[:, None]
    basis = np.cos(math.pi / SIDE * steps * frequencies).astype(np.float32)  # (11, SIDE)
    rows, columns = np.array(_FREQUENCIES).T
    hashes = []
    for part in np.array_split(thumbnails, max(1, len(thumbnails) // _PART)):
        lowest = (basis @ part.astype(np.float32) @ basis.T)[:, rows, columns]
        bits = lowest > np.median(lowest, axis=1, keepdims=True)
        hashes.append(np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64).ravel())
    return np.concatenate(hashes)


def close_pairs(hashes: np.ndarray) -> np.ndarray:
    """The pairs of hashes that differ in at most `MAX_DISTANCE` bits, without comparing all with all.

    Of four quarters of 16 bits, one differs in at most one bit then: each quarter, and each of the 16
    numbers one bit away from it, is looked up among the sorted quarters of all.

    Args:
        hashes: (N,) uint64.

    Returns:
        (M, 2) indices, the smaller first, each pair once.
    """
    flips = np.array([0, *(1 << bit for bit in range(16))], dtype=np.uint16)
    found = [np.empty((0, 2), dtype=np.int64)]
    for quarter in hashes.view(np.uint16).reshape(-1, 4).T:
        order = np.argsort(quarter, kind="stable")
        ordered = quarter[order]
        for flip in flips:
            wanted = quarter ^ flip
            first = np.searchsorted(ordered, wanted, "left")
            counts = np.searchsorted(ordered, wanted, "right") - first
            found += [_filtered(hashes, order, first, counts, part) for part in _parts(counts)]
    return np.unique(np.concatenate(found), axis=0)


def _parts(counts: np.ndarray) -> list[np.ndarray]:
    """Indices in groups of which the counts add up to `_CANDIDATES` or little more, to bound the memory."""
    group = np.cumsum(counts) // _CANDIDATES
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(group)) + 1)


def _filtered(
    hashes: np.ndarray, order: np.ndarray, first: np.ndarray, counts: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """The pairs of each index in `part` with its candidates, where the whole hashes are close."""
    counts = counts[part]
    left = np.repeat(part, counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    right = order[np.repeat(first[part], counts) + offsets]
    left, right = left[left < right], right[left < right]
    differing = (hashes[left] ^ hashes[right]).view(np.uint8).reshape(-1, 8)
    close = np.unpackbits(differing, axis=1).sum(axis=1) <= MAX_DISTANCE
    return np.stack([left[close], right[close]], axis=1)
