"""What a study is: rows, each a way to train, that differ from a common recipe in a few options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ggam.methods.registry import METHODS


@dataclass(frozen=True)
class Row:
    """One way to train, run once for each seed."""

    name: str
    """Unique in its study, the key in tables: "SCG", "3"."""
    label: str
    """What is shown: "spatial + channel + guidance", "λ = 3"."""
    options: Mapping[str, Any]
    """What differs from the study's recipe, as `Recipe.from_dict` reads it."""
    references: tuple[str, ...] = ()
    """The names of the rows that this one is tested against, seed by seed."""


@dataclass(frozen=True)
class Study:
    """A named list of rows, and which of them the others are held against."""

    name: str
    title: str
    rows: tuple[Row, ...]
    question: str
    """What the study is to find out, one sentence."""
    axis: Mapping[str, float] = field(default_factory=dict)
    """Where the rows are points of a curve: the value of each on the horizontal axis."""
    levels: tuple[str, ...] = ()
    """Where there is a curve: the rows drawn as horizontal lines."""

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


PLAIN = "baseline"
ATTENTION = "SC"
_PLAIN = Row(PLAIN, "plain network", {"method": "baseline"})


def _ggam(**options: Any) -> dict[str, Any]:
    """GGAM with all parts on, whatever the study's options say: rows do what their labels tell."""
    return {"method": "ggam", "ggam": {"channel": True, "spatial": True, "guidance": True, **options}}


_UNGUIDED = Row(ATTENTION, "attention without guidance", _ggam(guidance=False), references=(PLAIN,))


def table2(methods: Sequence[str] = (), backbones: Sequence[str] = ()) -> Study:
    """Table 2: every method on every backbone, each against the plain network on the same backbone.

    Args:
        methods: keys of `METHODS`, none for all; the plain network is always among the rows.
        backbones: names as `create_model` takes them; none leaves the recipe's.
    """
    rows = []
    for backbone, method in product(
        dict.fromkeys(backbones) or (None,), dict.fromkeys([PLAIN, *(methods or METHODS)])
    ):
        options = {"method": method} | ({"backbone": backbone} if backbone else {})
        suffix = f" {backbone}" if backbone else ""
        references = () if method == PLAIN else (f"{PLAIN}{suffix}",)
        rows.append(Row(f"{method}{suffix}", f"{_TITLES.get(method, method)}{suffix}", options, references))
    return Study(
        "table2",
        "Table 2: the methods compared",
        tuple(rows),
        "Which method names more pictures right than the plain network, trained by the same recipe?",
    )


def table3() -> Study:
    """Table 3: the eight combinations of spatial attention, channel attention and guidance."""
    rows = [_PLAIN]
    for guided, channel, spatial in list(product((False, True), repeat=3))[1:]:
        parts = {"spatial": spatial, "channel": channel, "guidance": guided}
        name = _initials(parts)
        unguided = _initials({**parts, "guidance": False}) or PLAIN
        references = tuple(dict.fromkeys([PLAIN, unguided] if guided else [PLAIN]))
        label = " + ".join(part for part, there in parts.items() if there)
        rows.append(Row(name, label, _ggam(**parts), references))
    return Study(
        "table3",
        "Table 3: what attention and guidance contribute",
        tuple(rows),
        "Does each part of the method help, alone and together?",
    )


def figure4() -> Study:
    """Figure 4: λ of Eq. (6) from 1 to 9, and 0, which is attention without guidance."""
    weights = [
        Row(str(weight), f"λ = {weight}", _ggam(guidance_weight=float(weight)), (PLAIN, ATTENTION))
        for weight in range(1, 10)
    ]
    axis = {ATTENTION: 0.0} | {row.name: float(row.name) for row in weights}
    return Study(
        "figure4",
        "Figure 4: the weight of the guidance",
        (_PLAIN, _UNGUIDED, *weights),
        "How strong should the guidance be?",
        axis=axis,
        levels=(PLAIN, ATTENTION),
    )


def guidance() -> Study:
    """Beyond the paper: is it Grad-CAM's information that helps, or only a smoother S?

    The control is `uniform`, a target without any information.
    """
    start = {
        "target": "standardized",
        "classes": "predicted",
        "gradient_at": "features",
        "guided": "channel",
        "guidance_reaches": "backbone",
    }
    variants: dict[str, tuple[str, dict[str, Any]]] = {
        "standardized": ("standardized target", {}),
        "uniform": ("uniform target (control)", {"target": "uniform"}),
        "sigmoid": ("sigmoid target", {"target": "sigmoid"}),
        "softmax": ("softmax target", {"target": "softmax"}),
        "label": ("Grad-CAM of the label's class", {"classes": "label"}),
        "attended": ("Grad-CAM at D", {"gradient_at": "attended"}),
        "both": ("S and T guided", {"guided": "both"}),
        "detached": ("gradient into the attention only", {"guidance_reaches": "attention"}),
    }
    rows = [
        Row(
            name,
            label,
            _ggam(**(start | options)),
            (PLAIN, ATTENTION) if name == "uniform" else (PLAIN, ATTENTION, "uniform"),
        )
        for name, (label, options) in variants.items()
    ]
    return Study(
        "guidance",
        "The guidance taken apart",
        (_PLAIN, _UNGUIDED, *rows),
        "Is it Grad-CAM's information that helps, or would any smoothing of S do as well?",
    )


def _initials(parts: Mapping[str, bool]) -> str:
    """The name of a row of Table 3: "SG" for spatial attention and guidance."""
    return "".join(part[0].upper() for part, there in parts.items() if there)


_TITLES = {"baseline": "plain network", "senet": "SENet", "cbam": "CBAM", "ggam": "GGAM"}
STUDIES: Mapping[str, Callable[[], Study]] = {
    "table2": table2,
    "table3": table3,
    "figure4": figure4,
    "guidance": guidance,
}
