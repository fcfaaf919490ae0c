"""What the paper claims: its Tables 2 and 3, to be shown as claimed, beside what was measured here.

The figures are the paper's (arXiv 2101.09666); those of other systems in Table 2 it took from their own
papers. Figure 4 is a curve without numbers.
"""

from dataclasses import dataclass

from ggam.studies.definition import PLAIN, Row


@dataclass(frozen=True)
class Claim:
    """One published accuracy."""

    system: str
    """As the paper names it."""
    row: str | None
    """What a study's row must match: its name in Table 3, its method in Table 2; None: not built here."""
    backbone: str
    """As `create_model` names it."""
    data: str
    """A key of `DATA_TITLES`."""
    accuracy: float
    """Top-1, a share from 0 to 1."""


DATA_TITLES = {"cub": "CUB-200-2011", "aircraft": "FGVC-Aircraft", "cars": "Stanford Cars"}
BACKBONE_TITLES = {"resnet50": "ResNet-50", "vgg19": "VGG-19"}

_TABLE3 = {
    PLAIN: ("without attention", 85.10),
    "S": ("spatial", 85.61),
    "C": ("channel", 85.39),
    "SC": ("spatial + channel", 86.86),
    "G": ("guidance", 85.30),
    "SG": ("spatial + guidance", 86.58),
    "CG": ("channel + guidance", 86.26),
    "SCG": ("spatial + channel + guidance", 88.45),
}
_TABLE2 = [  # system, method here, backbone, CUB, Aircraft, Cars
    ("RA-CNN", None, "vgg19", 85.30, 88.20, 92.50),
    ("MA-CNN", None, "vgg19", 84.92, 90.35, 92.80),
    ("SENet", "senet", "vgg19", 84.75, 90.12, 89.75),
    ("SENet", "senet", "resnet50", 86.78, 91.37, 93.10),
    ("CBAM", "cbam", "vgg19", 84.92, 90.32, 91.12),
    ("CBAM", "cbam", "resnet50", 86.99, 91.91, 93.35),
    ("DFL", None, "resnet50", 87.40, 91.73, 93.11),
    ("NTS", None, "resnet50", 87.52, 91.48, 93.90),
    ("TASN", None, "vgg19", 86.10, 90.83, 92.40),
    ("TASN", None, "resnet50", 87.90, 92.56, 93.80),
    ("DCL", None, "resnet50", 87.80, 93.00, 94.50),
    ("ACNet", None, "resnet50", 88.10, 92.40, 94.60),
    ("GGAM", "ggam", "vgg19", 87.34, 91.55, 93.32),
    ("GGAM", "ggam", "resnet50", 88.45, 93.42, 94.41),
]


def _share(accuracy: float) -> float:
    return round(accuracy / 100, 6)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table3": tuple(
        Claim(system, row, "resnet50", "cub", _share(accuracy)) for row, (system, accuracy) in _TABLE3.items()
    ),
    "table2": tuple(
        Claim(system, method, backbone, data, _share(accuracy))
        for system, method, backbone, *accuracies in _TABLE2
        for data, accuracy in zip(DATA_TITLES, accuracies, strict=True)
    ),
}
"""By the study's name; a study that is not here has no claim to be held against."""


def claims_for(study: str, row: Row, backbone: str) -> tuple[Claim, ...]:
    """The claims about a row of a study, one for each data set that the paper has.

    Args:
        study: the study's name.
        row: its row.
        backbone: of rows that name none, as `create_model` takes it. Table 2 has claims for ResNet-50 and
            VGG-19 only; in Table 3 a row stands beside its counterpart whatever its backbone, and the
            claim says its own.
    """
    plain_name = str(row.options.get("backbone") or backbone).removeprefix("torchvision/").split(".")[0]
    return tuple(
        claim
        for claim in CLAIMS.get(study, ())
        if (claim.row == row.name if study == "table3" else _same_system(claim, row, plain_name))
    )


def _same_system(claim: Claim, row: Row, backbone: str) -> bool:
    return claim.row == row.options.get("method") and claim.backbone == backbone
