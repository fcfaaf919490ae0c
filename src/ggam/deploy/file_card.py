"""What a model file says of itself, so that it can be fed and understood without the code that trained it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggam._version import __version__
from ggam.methods.base import ModelConfig

FORMAT = 1
_OF_CONFIG = ("class_names", "image_size", "mean", "std", "temperature", "method", "backbone")


class CardError(ValueError):
    """A file without a card, or with one of a newer version."""


@dataclass(frozen=True)
class FileCard:
    """What a model file says of itself: how to feed it, what its outputs mean, what it is."""

    config: ModelConfig
    """As far as files hold it: without `stage` and `options`, which only building the model again needs."""
    accuracy: Mapping[str, Any] | None = None
    """`top1` from 0 to 1 on so many `pictures`, where it was measured."""
    ggam: str = __version__
    """The version that wrote it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as files hold them.

        `resize` is the shorter side, in pixels, of the resized picture that the crop is cut from.
        """
        values = {name: getattr(self.config, name) for name in _OF_CONFIG}
        resize = self.config.transform().resized_side
        return {"format": FORMAT, **values, "resize": resize, "ggam": self.ggam, "accuracy": self.accuracy}

    def to_metadata(self) -> dict[str, str]:
        """Names and JSON values, as ONNX files hold them."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in self.to_dict().items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: Path) -> "FileCard":
        """Read what `to_metadata` wrote.

        Raises:
            CardError: naming `file`, if something is missing, or a newer version wrote it.
        """
        try:
            if json.loads(metadata["format"]) <= FORMAT:
                values = {name: json.loads(metadata[name]) for name in (*_OF_CONFIG, "accuracy", "ggam")}
                accuracy, writer = values.pop("accuracy"), values.pop("ggam")
                values |= {name: tuple(values[name]) for name in ("class_names", "mean", "std")}
                return cls(ModelConfig(stage=None, **values), accuracy, writer)
        except (KeyError, TypeError, ValueError) as error:
            raise CardError(
                f"{file}: not a model of ggam ({error!r} in its metadata); make it with ggam export"
            ) from error
        version = metadata.get("ggam", "").strip('"')
        raise CardError(
            f"{file}: written by ggam {version}, a newer version than this one ({__version__}); "
            "upgrade with pip install --upgrade ggam"
        )
