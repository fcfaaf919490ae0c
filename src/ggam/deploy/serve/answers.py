"""What the service is asked and what it answers, as OpenAPI describes it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

MapKind = Literal["overlay", "raw", "none"]


class Form(BaseModel):
    """Pictures, and what is asked of them."""  # read by `upload` as it arrives, and checked by `Service`

    images: list[bytes] = Field(description="JPEG, PNG or WebP, one or several")
    top: int = Field(5, description="classes to name")
    map: MapKind = Field("none", description="Grad-CAM as a picture, as numbers, or not at all")
    classes: list[str] = Field([], description="names or indices of those to explain; default: the first")


class Guess(BaseModel):
    """A class and what the model gives for it."""

    index: int
    name: str
    probability: float = Field(description="calibrated, from 0 to 1")


class HeatMap(Guess):
    """Where the model saw a class: its Grad-CAM map."""

    empty: bool = Field(description="nothing in the picture speaks for the class")
    overlay: str | None = Field(None, description="PNG in base64: the map over the region")
    values: list[list[float]] | None = Field(None, description="rows of the map, not normalised")


class Box(BaseModel):
    """A rectangle in pixels of the upright picture."""

    left: float
    top: float
    right: float
    bottom: float


class PictureAnswer(BaseModel):
    """What the model says of one picture."""

    width: int = Field(description="of the upright picture, in pixels")
    height: int
    region: Box = Field(description="the part that the model looked at; maps and overlays show it")
    classes: list[Guess] = Field(description="the most probable first")
    maps: list[HeatMap] = Field(description="of the classes asked for, or of the most probable one")


class Answer(BaseModel):
    """The answer of /predict: an entry for each picture, in the order of the form."""

    pictures: list[PictureAnswer]


class Problem(BaseModel):
    """Every answer that is not a success."""

    error: str


class ModelAnswer(BaseModel):
    """What is served."""

    description: dict[str, Any]
    fingerprint: str = Field(description="changes with the weights and with how they are used")
    class_names: list[str]
    maps: Literal["none", "top", "any"] = Field(description="which classes it has heat maps of")
    limits: dict[str, int | float]
    examples: dict[int, int] = Field(description="class index → number of example pictures")


class Health(BaseModel):
    """The state of the service."""

    status: str
