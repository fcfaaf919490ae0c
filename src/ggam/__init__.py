"""ggam: fine-grained visual classification with channel-spatial attention guided by Grad-CAM."""

import importlib
from typing import TYPE_CHECKING, Any

from ggam import _torchvision
from ggam._version import __version__ as __version__

_torchvision.install()

if TYPE_CHECKING:
    from ggam.attention import (
        Attention as Attention,
        ChannelSpatialAttention as ChannelSpatialAttention,
        apply_spatial as apply_spatial,
        channel_weights as channel_weights,
        spatial_weights as spatial_weights,
    )
    from ggam.checkpoint import (
        from_pretrained as from_pretrained,
        load_model as load_model,
        save_model as save_model,
    )
    from ggam.data.layouts import load_dataset as load_dataset
    from ggam.explanation import (
        Explanation as Explanation,
        attention_maps as attention_maps,
        explain as explain,
        map_kinds as map_kinds,
    )
    from ggam.foreign import explain_module as explain_module
    from ggam.gradcam import gradcam_map as gradcam_map, gradcam_weights as gradcam_weights
    from ggam.losses import GGAMLoss as GGAMLoss, LossTerms as LossTerms, symmetric_kl as symmetric_kl
    from ggam.methods import create_model as create_model
    from ggam.methods.base import FineGrainedModel as FineGrainedModel, Output as Output

_HOMES = {
    "Attention": "attention",
    "ChannelSpatialAttention": "attention",
    "Explanation": "explanation",
    "FineGrainedModel": "methods.base",
    "GGAMLoss": "losses",
    "LossTerms": "losses",
    "Output": "methods.base",
    "apply_spatial": "attention",
    "attention_maps": "explanation",
    "channel_weights": "attention",
    "create_model": "methods",
    "explain": "explanation",
    "explain_module": "foreign",
    "from_pretrained": "checkpoint",
    "gradcam_map": "gradcam",
    "gradcam_weights": "gradcam",
    "load_dataset": "data.layouts",
    "load_model": "checkpoint",
    "map_kinds": "explanation",
    "save_model": "checkpoint",
    "spatial_weights": "attention",
    "symmetric_kl": "losses",
}
__all__ = sorted([*_HOMES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `ggam --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ggam' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ggam.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
