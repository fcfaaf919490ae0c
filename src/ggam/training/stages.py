"""The stages of a training: which epochs they are, and how what a stage does not name comes to rest."""

from collections.abc import Sequence
from itertools import accumulate

from ggam.methods.base import FineGrainedModel, Stage


def planned_stages(model: FineGrainedModel, epochs: int) -> list[int]:
    """The number of the stage of each epoch.

    Args:
        model: whose method says which stages there are.
        epochs: of the whole training.

    Raises:
        ValueError: if there is no stage, one has no epoch, or one names a module that the model has not.
    """
    stages, method = model.stages(), model.config.method
    if not stages or any(stage.share <= 0 for stage in stages):
        shares = ", ".join(f"{stage.share:g}" for stage in stages) or "none"
        raise ValueError(f"the shares of the stages of {method} are {shares}: expected one at least, above 0")
    paths = {name for name, _ in model.named_modules()}
    for stage in stages:
        if isinstance(stage.learns, str) or isinstance(stage.frozen_statistics, str):
            raise ValueError(f"a stage of {method} names {stage.learns!r}: expected a tuple of module names")
        for path in (*stage.learns, *stage.frozen_statistics):
            if path not in paths:
                raise ValueError(f"a stage of {method} names {path!r}, which is no module of the model")
    shares = list(accumulate(stage.share for stage in stages))
    ends = [round(epochs * share / shares[-1]) for share in shares]
    lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    if 0 in lengths:
        raise ValueError(
            f"epochs={epochs}: {method} trains in {len(stages)} stages, of which one would have no epoch; "
            "raise --epochs"
        )
    return [number for number, length in enumerate(lengths) for _ in range(length)]


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
        """Have the parameters of this stage learn, and no others."""
        for name, parameter in self._trainable:
            parameter.requires_grad_(_within(name, stage.learns))

    def train(self, stage: Stage) -> None:
        """Train mode for what learns and what holds it, eval mode for what rests."""
        for path, module in self._model.named_modules():
            holds = any(learning != path and _within(learning, (path,)) for learning in stage.learns)
            learns = _within(path, stage.learns) and not _within(path, stage.frozen_statistics)
            module.training = holds or learns or not path


def _within(path: str, modules: Sequence[str]) -> bool:
    """Whether a dotted path is one of the modules or lies below one; "" holds everything."""
    return any(not module or path == module or path.startswith(f"{module}.") for module in modules)
