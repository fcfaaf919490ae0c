"""All that is measured of a model and of its heat maps: one name, one title and one meaning for each."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a measure is shown and read."""

    title: str
    meaning: str
    """What it is, in a few words for people."""
    unit: str = "%"
    """`%`: shares, shown as per cent and their differences as points; empty: as they are."""
    higher_is_better: bool = True

    def shown(self, value: float, *, signed: bool = False) -> str:
        """A value as text, without its unit; minus is written as such."""
        scaled, places = (100 * value, 2) if self.unit else (value, 3)
        rounded = round(scaled, places) + 0.0  # no minus before a zero
        plus = "+" if signed and rounded else ""
        return f"{rounded:{plus}.{places}f}".replace("-", "\N{MINUS SIGN}")

    @property
    def directed(self) -> str:
        """The title with the direction that is better."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


METRICS = {
    "top1": Metric("top-1", "test pictures whose class comes first"),
    "top5": Metric("top-5", "test pictures whose class is among the first five"),
    "macro": Metric("per class", "mean over the classes of their accuracy"),
    "loss": Metric("loss", "mean cross-entropy on the test pictures", "", higher_is_better=False),
    "on_object": Metric("peak on the object", "the hottest point lies on the object"),
    "near_object": Metric(
        "peak on it or near",
        "the hottest point is no further from the object than 3 % of the picture's longer side",
    ),
    "energy": Metric("heat on the object", "the share of all heat that lies on the object"),
    "maxboxacc": Metric(
        "MaxBoxAcc", "a box around the largest hot spot covers the true box (IoU ≥ 0.5), at the best cut"
    ),
    "maxboxacc_v2": Metric(
        "MaxBoxAccV2", "the same for any hot spot, mean over IoU ≥ 0.3, 0.5 and 0.7, each at its best cut"
    ),
    "mask_iou": Metric(
        "mask IoU, τ = 0.2", "overlap (IoU) of the object's mask with all above a fifth of the map's range"
    ),
    "mask_iou_best": Metric(
        "mask IoU, best τ", "the same, cut at the height that is best for all pictures together"
    ),
    "on_any_part": Metric("peak on a part", "the hottest point lies on a visible part, such as the beak"),
    "part_percentile": Metric(
        "rank of the parts", "the share of the picture that is colder than the parts; chance is 50"
    ),
    "on_part": Metric(
        "peak on a discriminative part",
        "the hottest point lies on a part that sets the class apart from those most like it",
    ),
    "part_energy": Metric("heat on discriminative parts", "the share of all heat that lies on such parts"),
    "pair_energy": Metric(
        "heat on what tells the pair",
        "the share of all heat on the parts in which the class differs from the one it is most taken for",
    ),
    "insertion": Metric(
        "insertion", "the mean probability while a blurred picture gets its hottest pixels back first"
    ),
    "deletion": Metric(
        "deletion", "the mean probability while the hottest pixels are removed first", higher_is_better=False
    ),
    "average_drop": Metric(
        "average drop",
        "the share of the probability that is lost when only what is hot is shown",
        higher_is_better=False,
    ),
    "increase": Metric(
        "increase", "the share of pictures whose probability grows when only what is hot is shown"
    ),
    "road": Metric(
        "ROAD", "half of what painting over the hottest pixels costs more than painting over the coldest"
    ),
}
"""By the key in files, in the order of tables; docs/explanations.md defines those of heat maps."""
FAITHFULNESS = ("insertion", "deletion", "average_drop", "increase", "road")
"""Those that perturb pictures: they depend on the model, and so does what a control gets."""
