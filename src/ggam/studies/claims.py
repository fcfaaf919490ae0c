"""What the paper claims: its Tables 2 and 3, to be shown as claimed, beside what was measured here.

The figures are the paper's (arXiv 2101.09666); those of other systems in Table 2 it took from their own
papers. Figure 4 is a curve without numbers.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ggam.studies.definition import PLAIN, Row

DATA_TITLES = {"cub": "CUB-200-2011", "aircraft": "FGVC-Aircraft", "cars": "Stanford Cars"}
BACKBONE_TITLES = {"resnet50": "ResNet-50", "vgg19": "VGG-19"}


class Claim(NamedTuple):
    """One line of a table of the paper."""

    system: str
    """As the paper names it."""
    row: str | None
    """What a study's row must match: its name in Table 3, its method in Table 2; None: not built here."""
    backbone: str
    """As `create_model` names it."""
    accuracies: Mapping[str, float]
    """Top-1, a share from 0 to 1, by a key of `DATA_TITLES`."""


def _claim(system: str, row: str | None, backbone: str, *percent: float) -> Claim:
    return Claim(system, row, backbone, {d: round(p / 100, 6) for d, p in zip(DATA_TITLES, percent)})  # noqa: B905


CLAIMS = {
    "table3": (
        _claim("without attention", PLAIN, "resnet50", 85.10),
        _claim("spatial", "S", "resnet50", 85.61),
        _claim("channel", "C", "resnet50", 85.39),
        _claim("spatial + channel", "SC", "resnet50", 86.86),
        _claim("guidance", "G", "resnet50", 85.30),
        _claim("spatial + guidance", "SG", "resnet50", 86.58),
        _claim("channel + guidance", "CG", "resnet50", 86.26),
        _claim("spatial + channel + guidance", "SCG", "resnet50", 88.45),
    ),
    "table2": (
        _claim("RA-CNN", None, "vgg19", 85.30, 88.20, 92.50),
        _claim("MA-CNN", None, "vgg19", 84.92, 90.35, 92.80),
        _claim("SENet", "senet", "vgg19", 84.75, 90.12, 89.75),
        _claim("SENet", "senet", "resnet50", 86.78, 91.37, 93.10),
        _claim("CBAM", "cbam", "vgg19", 84.92, 90.32, 91.12),
        _claim("CBAM", "cbam", "resnet50", 86.99, 91.91, 93.35),
        _claim("DFL", None, "resnet50", 87.40, 91.73, 93.11),
        _claim("NTS", None, "resnet50", 87.52, 91.48, 93.90),
        _claim("TASN", None, "vgg19", 86.10, 90.83, 92.40),
        _claim("TASN", None, "resnet50", 87.90, 92.56, 93.80),
        _claim("DCL", None, "resnet50", 87.80, 93.00, 94.50),
        _claim("ACNet", None, "resnet50", 88.10, 92.40, 94.60),
        _claim("GGAM", "ggam", "vgg19", 87.34, 91.55, 93.32),
        _claim("GGAM", "ggam", "resnet50", 88.45, 93.42, 94.41),
    ),
}
"""By the study's name; a study that is not here has no claim to be held against."""


def claim_for(study: str, row: Row, backbone: str) -> Claim | None:
    """The paper's line about a row of a study; None where it has none.

    Args:
        study: the study's name.
        row: its row.
        backbone: of rows that name none, as `create_model` takes it. Table 2 has claims for ResNet-50 and
            VGG-19 only; in Table 3 a row stands beside its counterpart whatever its backbone, and the
            claim says its own.
    """
    plain_name = str(row.options.get("backbone") or backbone).removeprefix("torchvision/").split(".")[0]
    for claim in CLAIMS.get(study, ()):
        if study == "table3" and claim.row == row.name:
            return claim
        if study == "table2" and (claim.row, claim.backbone) == (row.options.get("method"), plain_name):
            return claim
    return None
