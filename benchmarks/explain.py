"""What a heat map costs: ours and every CAM library's, on the same network, side by side.

Prints time and peak memory of a batch, as ratios to a plain forward pass under `inference_mode`. Every
library gets the same model and the same layer, the output A of the backbone; captum, which can explain
a network with frozen parameters, gets it frozen, so that it need not keep what it does not use.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/explain.py
    python benchmarks/explain.py --image-size 448 --precision bf16
"""

from collections.abc import Callable

import ggam  # before the libraries that import torchvision, see ggam._torchvision

# isort: split

import torch
from captum.attr import LayerGradCam  # pyright: ignore[reportMissingImports]
from pytorch_grad_cam import GradCAM as JacobGradCAM  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCamGradCAM  # pyright: ignore[reportMissingImports]

from ggam.methods.base import FineGrainedModel
from rounds import arguments, measure, show, title


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
    plain, ours, for_torchcam, for_captum, for_jacob = (make() for _ in range(5))
    wrapped = [Logits(model) for model in (for_torchcam, for_captum, for_jacob)]

    def forward() -> Tensor:
        with torch.inference_mode(), autocast:
            return plain(images).logits

    def explain() -> Tensor:
        with autocast:
            return ggam.explain(ours, images).maps

    torchcam = TorchCamGradCAM(wrapped[0], target_layer=for_torchcam.backbone)

    def torchcam_maps() -> object:
        with autocast:
            scores = wrapped[0](images)
            return torchcam(scores.argmax(dim=1).tolist(), scores)

    for_captum.requires_grad_(False)
    captum = LayerGradCam(wrapped[1], for_captum.backbone)

    def captum_maps() -> Tensor:
        with autocast:
            with torch.no_grad():
                classes = wrapped[1](images).argmax(dim=1)
            maps = captum.attribute(images, target=classes, relu_attributions=True)
        assert isinstance(maps, Tensor)
        return maps

    jacob = JacobGradCAM(wrapped[2], target_layers=[for_jacob.backbone])

    def jacob_maps() -> object:
        with autocast:
            return jacob(input_tensor=images, targets=None)

    return {
        "plain forward (inference_mode)": forward,
        "ggam.explain": explain,
        "torch-cam": torchcam_maps,
        "captum (and a forward for the class)": captum_maps,
        "pytorch-grad-cam": jacob_maps,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments("What a heat map costs.", precision="fp32")
    parser.add_argument("--method", default="ggam")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def make() -> FineGrainedModel:
        model = ggam.create_model(
            args.backbone, 200, method=args.method, pretrained=False, image_size=args.image_size
        )
        return model.to(device).eval()

    kinds = build_kinds(make, images, autocast)
    works = {}
    for name, call in kinds.items():
        try:
            call()
            works[name] = call
        except Exception as error:  # a library that cannot do it is a result
            print(f"{name}: fails with {type(error).__name__}: {' '.join(str(error).split())[:100]}")
    show(title("Heat maps", args), measure(works, args.rounds, device))


if __name__ == "__main__":
    main()
