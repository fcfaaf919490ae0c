"""What a model file says of itself, so that it can be fed and understood without the code that trained it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggam._version import __version__
from ggam.data.transforms import ImageTransform
from ggam.methods.base import FineGrainedModel

FORMAT = 1


class CardError(ValueError):
    """A file without a card, or with one of a newer version."""


@dataclass(frozen=True)
class FileCard:
    """What a model file says of itself: how to feed it, what its outputs mean, what it is."""

    class_names: tuple[str, ...]
    image_size: int
    """Height and width of the crop, in pixels."""
    resize: int
    """The shorter side, in pixels, of the resized picture that the crop is cut from."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float
    method: str
    backbone: str | None
    ggam: str
    """The version that wrote it."""
    accuracy: dict[str, Any] | None

    @classmethod
    def of(cls, model: FineGrainedModel, accuracy: Mapping[str, Any] | None = None) -> "FileCard":
        """The card of a model in memory."""
        config = model.config
        return cls(
            class_names=config.class_names,
            image_size=config.image_size,
            resize=config.transform().resized_side,
            mean=config.mean,
            std=config.std,
            temperature=config.temperature,
            method=config.method,
            backbone=config.backbone,
            ggam=__version__,
            accuracy=None if accuracy is None else dict(accuracy),
        )

    @property
    def transform(self) -> ImageTransform:
        """What makes an input of a picture."""
        return ImageTransform(self.image_size, self.mean, self.std)

    def description(self) -> dict[str, Any]:
        """As `Predictor.description`, without the runtime."""
        names = ("ggam", "method", "backbone", "image_size", "accuracy")
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return values | {"classes": len(self.class_names)}

    def to_metadata(self) -> dict[str, str]:
        """Names and JSON values, as ONNX files hold them."""
        values = {"format": FORMAT, **asdict(self)}
        return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: Path) -> "FileCard":
        """Read what `to_metadata` wrote.

        Raises:
            CardError: naming `file`, if something is missing, or a newer version wrote it.
        """
        try:
            if json.loads(metadata["format"]) <= FORMAT:
                values = {name: json.loads(metadata[name]) for name in cls.__dataclass_fields__}
                for name in ("class_names", "mean", "std"):
                    values[name] = tuple(values[name])
                return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise CardError(
                f"{file}: not a model of ggam ({error!r} in its metadata); make it with ggam export"
            ) from error
        version = metadata.get("ggam", "").strip('"')
        raise CardError(
            f"{file}: written by ggam {version}, a newer version than this one ({__version__}); "
            "upgrade with pip install --upgrade ggam"
        )
