"""A tiny model behind a server that takes little."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from ggam import create_model, save_model
from ggam.deploy.predictor import Predictor, open_predictor
from ggam.deploy.serve.limits import Limits
from serving import NAMES, serving


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with 2 × 2 maps whose classifier prefers no class too much."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("served") / "model"
    save_model(
        create_model("test_resnet", class_names=NAMES, pretrained=False, image_size=64, stage=-2), folder
    )
    return folder


@pytest.fixture(scope="package")
def predictor(model_folder: Path) -> Predictor:
    return open_predictor(model_folder, device="cpu")


@pytest.fixture(scope="package")
def client(predictor: Predictor) -> Iterator[httpx.Client]:
    """The model behind a server with small limits."""
    limits = Limits(
        max_bytes=200_000,
        max_request_bytes=500_000,
        max_pixels=400_000,
        max_files=6,
        max_queue=16,
        timeout=10,
    )
    with serving(predictor, limits) as served:
        yield served
