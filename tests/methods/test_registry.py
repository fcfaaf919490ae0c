"""`create_model`: names, options and their errors."""

from typing import Any

import pytest
from torch import nn

from ggam import create_model


def body() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())


def test_ggam_in_its_default_preset_is_the_default() -> None:
    model = create_model(body(), 3, image_size=16)
    assert model.config.method == "ggam" and model.options.preset == "default"


def test_the_configuration_holds_what_the_model_was_made_from() -> None:
    model = create_model("test_resnet", pretrained=False, image_size=32, stage=-2, class_names=("a", "b"))
    config = model.config
    assert (config.backbone, config.stage, config.image_size) == ("test_resnet", -2, 32)
    assert config.class_names == ("a", "b") and model.num_classes == 2
    assert config.mean == model.backbone.mean and config.options["preset"] == "default"
    assert create_model(body(), 2, image_size=16).config.backbone is None


def test_classes_without_names_are_numbered() -> None:
    assert create_model(body(), 3, image_size=16).config.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 3, "method": "gam"}, "method 'gam': did you mean ggam?"),
        ({"num_classes": 3, "method": "xyz"}, "method 'xyz': expected one of baseline, senet, cbam, ggam"),
        ({"num_classes": 3, "warm_up": 2}, "method 'ggam' has no option 'warm_up': did you mean warmup?"),
        ({"num_classes": 3, "zzz": 2}, "no option 'zzz': expected one of preset, channel"),
        ({"num_classes": 3, "method": "baseline", "warmup": 2}, "no option 'warmup': it has none"),
        ({"num_classes": 3, "method": "senet", "warmup": 2}, "no option 'warmup': expected one of placement"),
        ({"num_classes": 3, "placement": "last"}, "method 'ggam' has no option 'placement': expected one"),
        ({"num_classes": 3, "target": "entropy"}, "target='entropy': expected one of standardized"),
        ({}, "num_classes=None with 0 class names: expected at least 2 classes"),
        ({"num_classes": 1}, "expected at least 2 classes"),
        ({"num_classes": 3, "class_names": ["a", "b"]}, "num_classes=3 with 2 class names"),
    ],
)
def test_errors_name_what_was_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        create_model(body(), image_size=16, **options)
