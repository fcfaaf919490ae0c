"""`ggam figure3`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ggam.studies.figure3 import MapKind, gather
from ggam.studies.figure3_outputs import write_figure3
from ggam.system.console import CONSOLE, progress


def figure3(
    study: Path,
    *images: Path,
    pictures: int = 4,
    seed: int | None = None,
    map_: Annotated[MapKind, Parameter(name="--map")] = "gradcam",
    out: Path | None = None,
    dpi: int = 300,
) -> None:
    """Draw where the networks of a table3 study look: the paper's Figure 3.

    Rows without and with guidance; columns picture, baseline, channel, spatial, channel-spatial.

    Args:
        study: The folder of a study: --out of ggam study table3.
        images: Pictures, or folders of pictures; default: test pictures on which the networks disagree.
        pictures: How many to choose where none are named.
        seed: Whose networks; default: the first seed of the study.
        map_: Which heat map; spatial is T, channel is A weighted by S.
        out: Where the figure goes; default: STUDY/figure3.
        dpi: Pixels per inch; the figure is 5.3 inches wide.
    """
    with progress("asking the networks") as step:
        content = gather(study, images, seed=seed, pictures=pictures, kind=map_, on_network=step)
    page = write_figure3(out or study / "figure3", content, dpi=dpi)
    for subject in content.subjects:
        CONSOLE.print(f"{subject.name}: {subject.label or 'class unknown'}  {subject.tally}".rstrip())
    CONSOLE.print(f"{content.choice}\nfigure, raw maps, caption and page: {page.parent}")
