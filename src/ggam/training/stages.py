"""The stages of a training: which epochs they are, and how what a stage does not name comes to rest."""

from collections.abc import Sequence
from itertools import accumulate

from ggam.methods.base import FineGrainedModel, Stage


def stage_ends(stages: Sequence[Stage], epochs: int) -> list[int]:
    """The epoch before which each stage ends, counted from 0; the last one is `epochs`.

    Args:
        stages: of a method, in their order.
        epochs: of the whole training.

    Raises:
        ValueError: if a stage would have no epoch.
    """
    shares = list(accumulate(stage.share for stage in stages))
    ends = [round(epochs * share / shares[-1]) for share in shares]
    if any(before >= end for before, end in zip([0, *ends], ends, strict=False)):
        raise ValueError(
            f"epochs={epochs}: this method trains in {len(stages)} stages, of which one would have no epoch; "
            "raise --epochs"
        )
    return ends


class Resting:
    """Lets everything rest but what a stage names: no gradient, so no update, momentum or weight decay.

    What rests is in eval mode too, so that its running statistics stay as they are.

    Args:
        model: what is trained; a parameter that does not require a gradient now never learns.
    """

    def __init__(self, model: FineGrainedModel) -> None:
        self._model = model
        self._trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def enter(self, stage: Stage) -> None:
        """Have the parameters of this stage learn, and no others.

        Raises:
            ValueError: if the stage names a module that the model has not.
        """
        paths = [name for name, _ in self._model.named_modules()]
        for path in (*stage.learns, *stage.frozen_statistics):
            if path not in paths:
                method = self._model.config.method
                raise ValueError(f"a stage of {method} names {path!r}, which is no module of the model")
        for name, parameter in self._trainable:
            parameter.requires_grad_(_within(name, stage.learns))

    def train(self, stage: Stage) -> None:
        """Train mode for what learns, eval mode for what rests."""
        for path, module in self._model.named_modules():
            holds = any(_within(learning, (path,)) for learning in stage.learns)
            learns = _within(path, stage.learns) and not _within(path, stage.frozen_statistics)
            module.training = holds or learns


def _within(path: str, modules: Sequence[str]) -> bool:
    """Whether a dotted path is one of the modules or lies below one; "" holds everything."""
    return any(not module or path == module or path.startswith(f"{module}.") for module in modules)
