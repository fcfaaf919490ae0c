"""The contract of all methods: one way from picture to answer, named losses, and stages of training.

A method is one file with one class, and one line in `METHODS`. It always implements `head`, which is
everything between the backbone's maps and the answer: attention, classifiers, crops of the images that
go through `features` again. What it needs beyond that it overrides:

* `losses`, if it is trained by more than cross-entropy: named terms, whose sum is minimised. Their names are
  the columns of `metrics.csv` and the curves of the report. What is to be logged beside them goes into
  `diagnostics`.
* `earlier_maps`, if it reads more of the backbone than its last map; their widths are in
  `backbone.channels_of`.
* `parameter_groups`, if its parameters learn at rates of their own. One cosine runs over all stages.
* `stages`, if not everything learns all the time. What a stage does not name rests: its weights,
  its momentum and its running statistics stay as they are, bit for bit.
* `prepare`, if something starts from the training pictures.
* `closed_form`, if β can be had without autograd: then the heat map goes into exported files. It
  belongs to the `head` of the same class, and a subclass with another `head` does not inherit it.
* `map_titles` and `map_kinds`, if its `Output.maps` hold maps that are shown beside Grad-CAM.

Its options are a frozen dataclass in the same file. They reach the command line, recipes and studies as
`--NAME.option` through `METHODS`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggam.backbones.build import Backbone, Features, eval_mode
from ggam.data.transforms import ImageTransform
from ggam.equations.gradcam import gradcam_weights
from ggam.equations.precision import autocast_off, widen

Place = Literal["features", "attended"]
"""Where Grad-CAM differentiates: at A, or at D behind the attention."""
PREDICTED = -1
"""In place of a class to explain: the one that the model predicts."""
GRADCAM_FEATURES = "Grad-CAM before the attention"
"""The title of the kind of map `gradcam-features`."""


class Output(NamedTuple):
    """What a model returns for a batch of images."""

    logits: Tensor
    """y (B, K), before softmax: the answer of the whole method, all its passes included."""
    features: Tensor
    """A (B, C, H, W), the backbone's last map of the whole picture."""
    attended: Tensor
    """D (B, C, H, W), the map that Grad-CAM explains, in the graph of `logits`; A where nothing attends."""
    maps: dict[str, Tensor]
    """What else the method can show, by name: channel weights (B, C), maps (B, 1, H, W), boxes (B, n, 4); and
    what its `losses` need of `head` beside the logits."""

    def detach(self) -> "Output":
        """The same values, without their graph."""
        maps = {name: shown.detach() for name, shown in self.maps.items()}
        return Output(self.logits.detach(), self.features.detach(), self.attended.detach(), maps)


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model again and feed it, stored beside its weights."""

    method: str
    backbone: str | None
    """The name given to `create_model`; None for a module passed by the caller."""
    stage: int | str | None
    image_size: int
    """Height and width in pixels that the model was built for."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    """The method's own options."""
    temperature: float = 1.0
    """What the logits are divided by to make their softmax as sure as the model is right."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, K) → the probabilities (B, K) that every answer states: softmax(y / temperature)."""
        return (logits / self.temperature).softmax(dim=1)

    def transform(self, *, augment: bool = False) -> ImageTransform:
        """What makes an input of a picture: the crop and normalisation that the model was made for."""
        return ImageTransform(self.image_size, self.mean, self.std, augment)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class ParameterGroup(NamedTuple):
    """Parameters that learn at one rate."""

    name: str
    """Of the column of its rate in `metrics.csv`: "" gives `lr`, "backbone" gives `backbone_lr`."""
    parameters: Sequence[nn.Parameter]
    pretrained: bool = False
    """Whether they learn at the recipe's rate for the backbone, or at that for what is new."""
    factor: float = 1.0
    """What that rate is multiplied by."""
    decay: bool = True
    """Whether weight decay applies."""


class Stage(NamedTuple):
    """A part of the training: how long it is, and what learns in it."""

    share: float = 1.0
    """Its share of the epochs, relative to those of the other stages."""
    learns: tuple[str, ...] = ("",)
    """The modules that learn, by name; "" is the whole model. Everything else rests."""
    frozen_statistics: tuple[str, ...] = ()
    """Modules that learn but stay in eval mode: their BatchNorm and dropout are those of evaluation."""


class FineGrainedModel(nn.Module):
    """A backbone, a head, and a way to train them.

    Args:
        backbone: images → maps.
        config: how the model was made.
        options: the method's own options, an instance of `Options`.

    Attributes:
        Options: the dataclass of the method's options.
        source: the paper that the method comes from; "" for the plain network.
        earlier_maps: further maps that the method reads: a name, and how many stages before the last one.
        map_titles: the kinds of heat map that the method may have beside Grad-CAM, and what people call
            them. A kind is a name in `Output.maps`, of a map (B, 1, H, W) or of channel weights (B, C);
            or `gradcam-features`, Grad-CAM at A, where that is not what is explained anyway.
        epoch: the epoch being trained, from 0; set by the training loop, for `losses` only: an answer must
            not depend on it, as it is not saved.
        training_stage: the index of the stage being trained; as `epoch`.
        diagnostics: scalars of the last `losses` that are logged but not minimised, detached.
    """

    Options: ClassVar[type[Any]]
    source: ClassVar[str] = ""
    earlier_maps: ClassVar[Mapping[str, int]] = {}
    map_titles: ClassVar[Mapping[str, str]] = {}

    def __init__(self, backbone: Backbone, config: ModelConfig, options: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.options = options
        self.epoch = 0
        self.training_stage = 0
        self.diagnostics: dict[str, Tensor] = {}
        self._precision: tuple[bool, torch.dtype] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the one way: `forward` is nobody's to override, and a closed form stays with its `head`."""
        super().__init_subclass__(**kwargs)
        for name in ("forward", "answer"):
            if getattr(cls, name) is not getattr(FineGrainedModel, name):
                raise TypeError(f"{cls.__name__}: {name} is the same for all methods; implement head()")
        owner = {
            name: next(place for place, base in enumerate(cls.__mro__) if name in base.__dict__)
            for name in ("head", "closed_form")
        }
        if owner["head"] < owner["closed_form"]:
            cls.closed_form = FineGrainedModel.closed_form

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.config.class_names)

    @property
    def has_closed_form(self) -> bool:
        """Whether the class that defines `head` declares how to compute β without autograd."""
        return type(self).closed_form is not FineGrainedModel.closed_form

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """Which kinds of `map_titles` this model has, in the order in which they are shown."""
        return ()

    @final
    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, h, w), normalised → the answer; the only way to logits.

        Only the backbone runs in half precision under autocast: the head is small, and its gradient
        is what Grad-CAM reads.
        """
        return self.answer(self.features(images), images)

    def features(self, images: Tensor) -> Features:
        """Images (B, 3, h, w) → the backbone's maps by name, A as "last", in the run's precision.

        A head may pass crops or other views through it as well, in the same precision.
        """
        if self._precision is None:
            return self.backbone(images)
        enabled, dtype = self._precision
        with torch.autocast(images.device.type, dtype=dtype, enabled=enabled):
            return {name: widen(features) for name, features in self.backbone(images).items()}

    @final
    def answer(self, features: Features, images: Tensor) -> Output:
        """The second half of `forward`: `head` in float32, from maps in any precision."""
        device = images.device.type
        if not torch.is_autocast_enabled(device):
            return self.head({name: widen(found) for name, found in features.items()}, images)
        before, self._precision = self._precision, (True, torch.get_autocast_dtype(device))
        try:
            with autocast_off(images):
                return self.head({name: widen(found) for name, found in features.items()}, images)
        finally:
            self._precision = before

    def head(self, features: Features, images: Tensor) -> Output:
        """Everything between the backbone's maps and the answer, further passes included.

        Args:
            features: "last" is A (B, C, H, W); the others are those of `earlier_maps`.
            images: (B, 3, h, w), what the maps were made from.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement head()")

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted terms of the loss of one batch, by name; their sum is minimised.

        Here the mean cross-entropy. A term that is not to learn is left out; which terms there are may
        depend on the epoch and the stage, but not on the batch, of which each device has its part.

        It runs in the precision of the run: `self(images)` and `self.answer` end in float32, but under
        bf16 a matrix product written here does not.

        Args:
            images: (B, 3, h, w), float32.
            labels: (B,).
        """
        logits = self(images).logits
        self.diagnostics = {"accuracy": accuracy(logits, labels)}
        return {"classification": F.cross_entropy(logits, labels)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, each in one group, by the rate they learn at: here the backbone and the rest."""
        return new_and_pretrained(self, self.backbone.parameters())

    def stages(self) -> Sequence[Stage]:
        """The parts of the training, in their order; here one, in which everything learns."""
        return (Stage(),)

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Start from the training pictures: called once, before the first step of a new run.

        It runs in eval mode, on every rank over all pictures, and must end in the same model on each.
        It may fill parameters and buffers, or make new ones: the optimiser is built behind it.

        Args:
            batches: images (B, 3, h, w) and labels (B,) of the training part, as in evaluation, on the
                model's device; read when they are iterated over.
        """

    def closed_form(self, output: Output, classes: Tensor, at: Place) -> Tensor | None:
        """β (B, C) of Eq. (4) without autograd, in eval mode; None where it is not known.

        Args:
            output: of this model.
            classes: k for each image (B,), int64.
            at: where y_k is differentiated.
        """
        return None

    def gradcam(
        self, images: Tensor, classes: Tensor | None = None, *, at: Place = "attended"
    ) -> tuple[Output, Tensor, Tensor]:
        """The answer, and the Grad-CAM channel weights of it (Eq. 4), whatever the gradient mode around it.

        In eval mode they come from the closed form where there is one; else the backbone's first pass
        runs without recording, and y_k is differentiated through the head alone.

        Args:
            images: (B, 3, h, w), normalised.
            classes: k for each image (B,), or M classes for each (B, M), int64, `PREDICTED` for the one
                with the largest logit; None explains that one of each image.
            at: where y_k is differentiated: behind the attention at D, or at A, through the attention.

        Returns:
            The output, the explained classes, and β (B, C) or (B, M, C) in float32 or wider; all detached.
        """
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images
            features = self.features(images)
            if self.has_closed_form and not self.training:
                output = self.answer(features, images)
                chosen = _explained(output.logits, classes)
                with autocast_off(images):
                    weights = _each(chosen, lambda k: self.closed_form(output, k, at))
                if weights is not None:
                    return output, chosen, weights
            with torch.enable_grad():
                leaves = {name: widen(each.detach()).requires_grad_() for name, each in features.items()}
                output = self.answer(leaves, images)
                chosen = _explained(output.logits, classes)
                place = output.features if at == "features" else output.attended
                with autocast_off(images):  # the head's backward pass in float32, as its forward pass
                    weights = _each(chosen, lambda k: gradcam_weights(output.logits, place, k))
            assert weights is not None
            return output.detach(), chosen, weights

    @classmethod
    def published_backbone(cls, name: str, options: Any) -> str:
        """The name of the network to start from where published weights are wanted, by default as given.

        Args:
            name: what was asked for.
            options: an instance of `Options`.
        """
        return name


def require_answer(model: FineGrainedModel) -> None:
    """Ask a model about two blank pictures, so that what its method does wrong shows before it is trained.

    Raises:
        ValueError: if `head` does not return what `Output` promises, Grad-CAM cannot be taken of it, or a
            kind of map that the model says it has is not there or has no title.
    """
    method, size = type(model).__name__, model.config.image_size
    parameter = next(model.parameters())
    blank = torch.zeros(2, 3, size, size, device=parameter.device)
    with torch.no_grad(), eval_mode(model):
        output = model(blank)
        wanted = (2, model.num_classes)
        if not isinstance(output, Output) or output.logits.shape != wanted:
            got = tuple(output.logits.shape) if isinstance(output, Output) else type(output).__name__
            raise ValueError(
                f"{method}.head: expected an Output, with logits {wanted} for two pictures; got {got}"
            )
        try:
            model.gradcam(blank)
        except ValueError as error:
            raise ValueError(
                f"{method}.head: the logits do not depend on the attended map ({error})"
            ) from error
    for kind in model.map_kinds:
        if kind not in model.map_titles or (kind not in output.maps and kind != "gradcam-features"):
            raise ValueError(f"{method}: the map {kind!r} is not in map_titles, or not in the Output's maps")


def new_and_pretrained(model: nn.Module, pretrained: Iterable[nn.Parameter]) -> list[ParameterGroup]:
    """Two groups: what is new, and what starts from pre-trained weights and learns at the backbone's rate.

    Args:
        model: whose parameters are divided.
        pretrained: those of them that start from pre-trained weights.
    """
    known = list(pretrained)
    ids = {id(parameter) for parameter in known}
    new = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [ParameterGroup("", new), ParameterGroup("backbone", known, pretrained=True)]


def _explained(logits: Tensor, classes: Tensor | None) -> Tensor:
    """The classes to explain, with the predicted ones filled in."""
    predicted = logits.argmax(dim=1)
    if classes is None:
        return predicted
    return torch.where(classes < 0, predicted if classes.ndim == 1 else predicted[:, None], classes)


def _each(classes: Tensor, weights: Callable[[Tensor], Tensor | None]) -> Tensor | None:
    """β (B, C) of one class per image, or (B, M, C) of M; None where it is not known."""
    if classes.ndim == 1:
        return weights(classes)
    found = [each for column in classes.unbind(1) if (each := weights(column)) is not None]
    return torch.stack(found, dim=1) if found else None


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of images whose largest logit is that of the label, a scalar between 0 and 1."""
    return (logits.detach().argmax(dim=1) == labels).float().mean()
