"""One way to ask a trained model, be it a run directory, a model folder or an ONNX file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ggam.backbones.build import eval_mode
from ggam.data.transforms import ImageTransform
from ggam.deploy.file_card import FileCard
from ggam.equations.gradcam import gradcam_map
from ggam.methods.base import PREDICTED, FineGrainedModel
from ggam.runs.run import Run, open_model
from ggam.system.devices import DeviceError, default_device

Maps = Literal["none", "top", "any"]
"""Which heat maps a model gives: none, the predicted class's only, or any class's."""


class PredictorError(ValueError):
    """A model that cannot be opened, or is asked for what it cannot do."""


class Predicted(NamedTuple):
    """What a model says of a batch of images."""

    logits: np.ndarray
    """y (B, K), float32, before softmax."""
    probabilities: np.ndarray
    """(B, K), float32, calibrated: the softmax of the logits over the model's temperature."""
    classes: np.ndarray
    """The explained class of each image (B,), int64."""
    maps: np.ndarray | None
    """Grad-CAM heat maps of these classes (B, H, W), float32, at the size of the feature map, not
    normalised; None from a model without maps."""


_Outputs = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Logits (B, K), probabilities (B, K), and maps (B, H, W) where there are any."""


class Predictor(ABC):
    """A model to ask.

    Args:
        card: how to feed it, and what it is.
        maps: which heat maps there are.
        runtime: what runs it.

    Attributes:
        class_names: K names, in the order of the logits.
        transform: makes an input of a picture.
        temperature: what the logits are divided by before the softmax.
        maps: which heat maps there are.
        description: plain values that say what the model is, for people and for JSON: `ggam` (the
            version), `method`, `backbone`, `image_size`, `classes` (how many), `runtime`, and where it is
            known `accuracy` (`top1` from 0 to 1 on so many `pictures`).
    """

    class_names: tuple[str, ...]
    transform: ImageTransform
    temperature: float
    maps: Maps
    description: dict[str, Any]

    def __init__(self, card: FileCard, maps: Maps, runtime: str) -> None:
        config = card.config
        self.class_names, self.transform = config.class_names, config.transform()
        self.temperature, self.maps = config.temperature, maps
        named = {"method": config.method, "backbone": config.backbone, "image_size": config.image_size}
        known = {"ggam": card.ggam, **named, "accuracy": card.accuracy}
        self.description = {name: value for name, value in known.items() if value is not None}
        self.description |= {"classes": len(config.class_names), "runtime": runtime}

    def predict(self, images: np.ndarray | Tensor, classes: Sequence[int] | None = None) -> Predicted:
        """Classify images and explain the predicted, or the given, class of each.

        Args:
            images: (B, 3, h, w), float32, as `transform` makes them.
            classes: the class to explain for each image, `PREDICTED` for the one that is predicted; None
                explains the predicted class of each.

        Raises:
            PredictorError: if the images have another shape, or the classes do not fit them or cannot be
                explained by this model.
        """
        batch = torch.as_tensor(images, dtype=torch.float32)
        size = self.transform.image_size
        if batch.ndim != 4 or batch.shape[1:] != (3, size, size) or not len(batch):
            raise PredictorError(
                f"images of shape {tuple(batch.shape)}: expected (B, 3, {size}, {size}), one at least"
            )
        wanted = None if classes is None else self._checked(classes, len(batch))
        logits, probabilities, maps = self._run(batch, wanted)
        explained = logits.argmax(axis=1).astype(np.int64)
        if wanted is not None:
            explained = np.where(wanted < 0, explained, wanted)
        return Predicted(logits, probabilities, explained, maps)

    @abstractmethod
    def _run(self, batch: Tensor, classes: np.ndarray | None) -> _Outputs:
        """Logits, probabilities and maps; `classes` is None where all predicted classes are meant."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the weights and of how the model is used: equal for equal models only, in hexadecimal."""

    def _checked(self, classes: Sequence[int], count: int) -> np.ndarray | None:
        wanted = np.asarray(classes, dtype=np.int64)
        limit = len(self.class_names)
        if wanted.shape != (count,) or wanted.min() < PREDICTED or wanted.max() >= limit:
            raise PredictorError(
                f"classes {list(classes)}: expected {count}, one for each image, from 0 to {limit - 1}, "
                f"or {PREDICTED} for the predicted class"
            )
        if (wanted == PREDICTED).all():
            return None
        if self.maps != "any":
            only = "explains the predicted class only" if self.maps == "top" else "gives no heat maps"
            raise PredictorError(f"this model {only}; export it with --classes-input to choose the class")
        return wanted


class Inference(nn.Module):
    """What a model computes for a user, as one module that can be exported.

    Args:
        model: in eval mode.
        maps: also give the heat map.
    """

    def __init__(self, model: FineGrainedModel, *, maps: bool = True) -> None:
        super().__init__()
        self.model = model
        self.maps = maps

    def forward(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Images (B, 3, h, w), classes (B,) → y (B, K), probabilities (B, K), and L_map (B, H, W).

        Below zero, a class is the predicted one.
        """
        if not self.maps:
            logits = self.model(images).logits
            return logits, self.model.config.probabilities(logits)
        output, _, weights = self.model.gradcam(images, classes)
        probabilities = self.model.config.probabilities(output.logits)
        return output.logits, probabilities, gradcam_map(output.attended, weights)


class TorchPredictor(Predictor):
    """A model in PyTorch, in float32.

    Args:
        model: is moved to `device`, laid out channels last, and set to eval mode.
        device: where it runs.
        accuracy: goes into the description.
    """

    def __init__(
        self, model: FineGrainedModel, *, device: torch.device, accuracy: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(FileCard(model.config, accuracy), "any", "torch")
        self._device = device
        self._config = model.config.to_dict()
        model = model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._inference = Inference(model.eval())

    def _run(self, batch: Tensor, classes: np.ndarray | None) -> _Outputs:
        images = batch.to(self._device, memory_format=torch.channels_last)
        wanted = None if classes is None else torch.from_numpy(classes).to(self._device)
        with torch.inference_mode(False), torch.no_grad(), eval_mode(self._inference):
            logits, probabilities, maps = (part.cpu().numpy() for part in self._inference(images, wanted))
        return logits, probabilities, maps

    def fingerprint(self) -> str:
        """Of the weights and the model's configuration."""
        digest = sha256(json.dumps(self._config, sort_keys=True).encode())
        for name, value in sorted(self._inference.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class OnnxPredictor(Predictor):
    """A file of `ggam export`, run by onnxruntime.

    Args:
        file: the `.onnx` file.
        device: `cpu`, `cuda`, or `auto` for the best that onnxruntime has.
        threads: for one batch; None leaves it to onnxruntime.

    Raises:
        PredictorError: if onnxruntime is not installed, or the file is damaged.
        CardError: if the file is not one of ours, or of a newer version.
        DeviceError: if onnxruntime has no such device.
    """

    def __init__(self, file: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self._file = file
        self._session = _open_session(file, device, threads)
        card = FileCard.from_metadata(self._session.get_modelmeta().custom_metadata_map, file)
        self._outputs = [output.name for output in self._session.get_outputs()]
        choosable = any(part.name == "classes" for part in self._session.get_inputs())
        maps = "none" if "map" not in self._outputs else "any" if choosable else "top"
        super().__init__(card, maps, "onnxruntime")

    def _run(self, batch: Tensor, classes: np.ndarray | None) -> _Outputs:
        inputs = {"images": batch.cpu().numpy()}
        if self.maps == "any":
            inputs["classes"] = np.full(len(batch), PREDICTED) if classes is None else classes
        found: dict[str, Any] = dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
        return found["logits"], found["probabilities"], found.get("map")

    def fingerprint(self) -> str:
        """Of the file."""
        with self._file.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()


def open_predictor(source: Path | str, *, device: str = "auto", threads: int | None = None) -> Predictor:
    """Open a trained model, whatever it is stored as.

    Args:
        source: a run directory, a model folder or hub id as for `ggam.load_model`, or a file of
            `ggam export` that ends in `.onnx`.
        device: `cpu`, `cuda`, `mps` (not for ONNX), or `auto`.
        threads: processor threads for one batch. For a model in PyTorch this is set for the whole
            process; None leaves it alone.

    Raises:
        PredictorError: if an ONNX file cannot be run.
        RunError: if it is none of these, or a run that is not finished.
        CardError: if an ONNX file is not one of ours, or of a newer version.
        CheckpointError: if a model folder is missing or damaged.
        DeviceError: if the device is not there.
    """
    path = Path(source)
    if path.suffix.lower() == ".onnx" or path.is_file():
        return OnnxPredictor(path, device=device, threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    model, run = open_model(source)
    return TorchPredictor(model, device=default_device(device), accuracy=accuracy_of(run))


def accuracy_of(run: Run | None) -> dict[str, Any] | None:
    """What a run measured of its model, as a predictor's description has it; None without a run."""
    if run is None:
        return None
    chosen = run.read_results().chosen
    return {"top1": chosen["top1"], "pictures": chosen["pictures"]}


def _open_session(file: Path, device: str, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PredictorError(
            f"{file}: ONNX files are run by onnxruntime, which is not installed; pip install 'ggam[export]'"
        ) from error
    if not file.is_file():
        raise PredictorError(f"{file}: no such file; expected a model that ggam export wrote")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings are about the graph, not for its users
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = _providers(onnxruntime.get_available_providers(), device)
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise PredictorError(f"{file}: cannot be read as an ONNX model ({reason})") from error


def _providers(available: Sequence[str], device: str) -> list[str]:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"device {device!r}: an ONNX file runs on auto, cpu or cuda")
    if device == "cuda" and cuda not in available:
        raise DeviceError("device 'cuda': this onnxruntime has none; pip install onnxruntime-gpu")
    return [cuda, cpu] if device != "cpu" and cuda in available else [cpu]
