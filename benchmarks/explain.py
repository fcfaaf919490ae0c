"""What a heat map costs: ours and every CAM library's, on the same network, side by side.

Prints time and peak memory of a batch, as ratios to a plain forward pass under `inference_mode`, in one
table for all sizes and precisions. Every library gets the same model and the same layer, the output A of
the backbone; `ggam.explain` alone looks behind the attention, `ggam.explain_module` at A as the others do.
captum, which can explain a network with frozen parameters, gets it frozen, so that it need not keep what it
does not use. What a library cannot do is printed as such.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/explain.py
    python benchmarks/explain.py --image-sizes 224 --precisions fp32 --batch-size 2 --rounds 5
"""

import argparse
from collections.abc import Callable

import ggam  # before the libraries that import torchvision, see ggam.system.torchvision_hook

# isort: split

import torch
from captum.attr import LayerGradCam  # pyright: ignore[reportMissingImports]
from pytorch_grad_cam import GradCAM as JacobGradCAM  # pyright: ignore[reportMissingImports]
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCamGradCAM  # pyright: ignore[reportMissingImports]

from ggam.methods.base import FineGrainedModel
from rounds import Cost, measure

PLAIN = "plain forward (inference_mode)"


class Logits(nn.Module):
    """The model as the libraries expect it: images → logits."""

    def __init__(self, model: FineGrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) → y (B, K)."""
        return self.model(images).logits


def build_kinds(
    make: Callable[[], FineGrainedModel], images: Tensor, autocast: torch.autocast
) -> dict[str, Callable[[], object]]:
    """Every way to a heat map of the predicted class, as a call."""
    plain, ours, for_module, for_torchcam, for_captum, for_jacob = (make() for _ in range(6))
    wrapped = [Logits(model) for model in (for_torchcam, for_captum, for_jacob, for_module)]

    def forward() -> Tensor:
        with torch.inference_mode(), autocast:
            return plain(images).logits

    def explain() -> Tensor:
        with autocast:
            return ggam.explain(ours, images).maps

    def explain_module() -> Tensor:
        with autocast:
            return ggam.explain_module(wrapped[3], for_module.backbone.body, images).maps

    torchcam = TorchCamGradCAM(wrapped[0], target_layer=for_torchcam.backbone.body)

    def torchcam_maps() -> object:
        with autocast:
            scores = wrapped[0](images)
            return torchcam(scores.argmax(dim=1).tolist(), scores)

    for_captum.requires_grad_(False)
    captum = LayerGradCam(wrapped[1], for_captum.backbone.body)

    def captum_maps() -> Tensor:
        with autocast:
            with torch.no_grad():
                classes = wrapped[1](images).argmax(dim=1)
            maps = captum.attribute(images, target=classes, relu_attributions=True)
        assert isinstance(maps, Tensor)
        return maps

    jacob = JacobGradCAM(wrapped[2], target_layers=[for_jacob.backbone.body])

    def jacob_maps() -> object:
        with autocast:
            return jacob(input_tensor=images, targets=None)

    return {
        PLAIN: forward,
        "ggam.explain": explain,
        "ggam.explain_module": explain_module,
        "torch-cam": torchcam_maps,
        "captum (and a forward for the class)": captum_maps,
        "pytorch-grad-cam": jacob_maps,
    }


def costs_of(
    kinds: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Cost | None]:
    """What each kind costs; None for a kind that fails, which is said."""
    works: dict[str, Callable[[], object]] = {}
    for name, call in kinds.items():
        try:
            call()
            works[name] = call
        except Exception as error:  # a library that cannot do it is a result
            print(f"{name} fails with {type(error).__name__}: {' '.join(str(error).split())[:100]}")
    measured = measure(works, rounds, device)
    return {name: measured.get(name) for name in kinds}


def show(columns: dict[str, dict[str, Cost | None]], title: str) -> None:
    """One table: a row for each kind, and under each setting time and memory over the plain pass."""
    headings = [f"{setting}: {what}" for setting in columns for what in ("time", "memory")]
    table = Table("", *headings, title=title, title_justify="left")
    for name in next(iter(columns.values())):
        cells = []
        for costs in columns.values():
            cost, plain = costs[name], costs[PLAIN]
            assert plain is not None
            if cost is None:
                cells += ["fails", ""]
            elif name == PLAIN:
                cells += [f"{1000 * cost.seconds:.0f} ms", f"{cost.memory / 2**20:.0f} MiB"]
            else:
                cells += [f"{cost.ratio:.2f} ×", f"{cost.memory / plain.memory:.2f} ×"]
        table.add_row(name, *cells)
    Console(width=max(80, 40 + 16 * len(headings))).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a heat map costs.")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--method", default="ggam")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[224, 448], help="pixels")
    parser.add_argument("--precisions", choices=["fp32", "bf16"], nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batch-size", type=int, default=8, help="pictures")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    device = torch.device(args.device)
    columns: dict[str, dict[str, Cost | None]] = {}
    for size in args.image_sizes:
        for precision in args.precisions:
            torch.manual_seed(0)
            images = torch.randn(args.batch_size, 3, size, size, device=device)
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

            def make(size: int = size) -> FineGrainedModel:
                model = ggam.create_model(
                    args.backbone, 200, method=args.method, pretrained=False, image_size=size
                )
                return model.to(device).eval()

            kinds = build_kinds(make, images, autocast)
            columns[f"{size} {precision}"] = costs_of(kinds, args.rounds, device)
    what = f"{args.backbone}, {args.method}, batch {args.batch_size}, {args.device}, {args.rounds} rounds"
    show(columns, f"Heat maps, ratios to the plain pass: {what}")


if __name__ == "__main__":
    main()
