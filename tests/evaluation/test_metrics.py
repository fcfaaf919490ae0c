"""Values as text."""

from ggam.evaluation.metrics import FAITHFULNESS, METRICS


def test_numbers_as_text() -> None:
    share, loss = METRICS["top1"], METRICS["loss"]
    assert share.shown(0.85104) == "85.10"
    assert share.shown(0.012, signed=True) == "+1.20"
    assert share.shown(-0.012) == "−1.20"
    assert share.shown(-0.00001, signed=True) == share.shown(0.0, signed=True) == "0.00"
    assert loss.shown(0.5) == "0.500"


def test_every_measure_has_a_title_of_its_own() -> None:
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    assert set(FAITHFULNESS) <= set(METRICS)
    assert (METRICS["energy"].directed, METRICS["deletion"].directed) == (
        "heat on the object ↑",
        "deletion ↓",
    )
