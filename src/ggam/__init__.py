"""ggam: fine-grained visual classification with channel-spatial attention guided by Grad-CAM."""

import importlib
from typing import TYPE_CHECKING, Any

from ggam._version import __version__ as __version__
from ggam.system import torchvision_hook

torchvision_hook.install()

if TYPE_CHECKING:
    from ggam.data.layouts.registry import load_dataset as load_dataset
    from ggam.equations.attention import (
        Attention as Attention,
        ChannelSpatialAttention as ChannelSpatialAttention,
        apply_spatial as apply_spatial,
        channel_weights as channel_weights,
        spatial_weights as spatial_weights,
    )
    from ggam.equations.gradcam import gradcam_map as gradcam_map, gradcam_weights as gradcam_weights
    from ggam.equations.guidance import (
        GGAMLoss as GGAMLoss,
        LossTerms as LossTerms,
        symmetric_kl as symmetric_kl,
    )
    from ggam.explanations.any_module import explain_module as explain_module
    from ggam.explanations.explanation import (
        Explanation as Explanation,
        explain as explain,
        explain_maps as explain_maps,
    )
    from ggam.fitting import TrainedRun as TrainedRun, fit as fit
    from ggam.methods.base import FineGrainedModel as FineGrainedModel, Output as Output
    from ggam.methods.registry import create_model as create_model
    from ggam.runs.model_folder import (
        from_pretrained as from_pretrained,
        load_model as load_model,
        save_model as save_model,
    )
    from ggam.training.signals import Interrupted as Interrupted

_HOMES = {
    "Attention": "equations.attention",
    "ChannelSpatialAttention": "equations.attention",
    "Explanation": "explanations.explanation",
    "FineGrainedModel": "methods.base",
    "TrainedRun": "fitting",
    "GGAMLoss": "equations.guidance",
    "Interrupted": "training.signals",
    "LossTerms": "equations.guidance",
    "Output": "methods.base",
    "apply_spatial": "equations.attention",
    "channel_weights": "equations.attention",
    "create_model": "methods.registry",
    "explain": "explanations.explanation",
    "explain_maps": "explanations.explanation",
    "explain_module": "explanations.any_module",
    "fit": "fitting",
    "from_pretrained": "runs.model_folder",
    "gradcam_map": "equations.gradcam",
    "gradcam_weights": "equations.gradcam",
    "load_dataset": "data.layouts.registry",
    "load_model": "runs.model_folder",
    "save_model": "runs.model_folder",
    "spatial_weights": "equations.attention",
    "symmetric_kl": "equations.guidance",
}
__all__ = sorted([*_HOMES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `ggam --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ggam' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ggam.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
