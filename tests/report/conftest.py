"""A small annotated data set and models of it, evaluated, for the pages."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ggam import create_model
from ggam.data.records import Box, FineGrainedDataset, Sample
from ggam.data.transforms import ImageTransform
from ggam.methods.base import FineGrainedModel

NAMES = ("auk <b>", "booby", "crake")


@pytest.fixture(scope="package")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> FineGrainedDataset:
    """Nine noisy pictures of three classes, with boxes, and parts that tell two of the classes."""
    root = tmp_path_factory.mktemp("data") / "noises"
    root.mkdir()
    rng = np.random.default_rng(0)
    samples = []
    for index in range(9):
        path = root / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(path, index % 3, Box(10, 10, 40, 40), ((30.0, 30.0), (20.0, 40.0))))
    return FineGrainedDataset(
        samples,
        NAMES,
        root=root,
        layout="test",
        split="test",
        part_names=("crown", "tail"),
        discriminative={0: (0,), 1: (0, 1)},
        transform=ImageTransform(32, (0.5,) * 3, (0.25,) * 3),
    )


def tiny_model(method: str) -> FineGrainedModel:
    """A model with random weights on 4 × 4 maps."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
    return create_model(backbone, class_names=NAMES, method=method, image_size=32).eval()


@pytest.fixture(scope="package")
def models() -> dict[str, FineGrainedModel]:
    """A baseline and a ggam model."""
    return {method: tiny_model(method) for method in ("baseline", "ggam")}
