"""What the heat map costs in an exported file: onnxruntime with and without it, and PyTorch, side by side.

pip install -c constraints.txt -e '.[export]'
python benchmarks/export.py
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ggam  # before torchvision is imported, see ggam.system.torchvision_hook

# isort: split

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from ggam.deploy.export import export_model
from ggam.system.timing import take_turns

KINDS: dict[str, dict[str, Any]] = {
    "onnxruntime, logits only": {"maps": False},
    "onnxruntime, with the map": {},
    "onnxruntime, class as an input": {"classes_input": True},
    "onnxruntime, half-precision weights": {"half": True},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the heat map costs in an exported file.")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--method", default="ggam")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = ggam.create_model(
        args.backbone, 200, method=args.method, pretrained=False, image_size=args.image_size
    ).eval()
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    calls: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(KINDS.items()):
            done = export_model(model, Path(folder, f"{number}.onnx"), **options)
            sizes[name] = done.bytes
            calls[name] = onnx_call(done.path, images, args.threads)

    def plain() -> object:
        with torch.inference_mode():
            return model(images).logits

    calls["PyTorch, logits only"] = plain
    calls["PyTorch, ggam.explain"] = lambda: ggam.explain(model, images)
    seconds = take_turns(calls, args.rounds, torch.device("cpu"))
    show(args, seconds, sizes)


def onnx_call(path: Path, images: torch.Tensor, threads: int) -> Callable[[], object]:
    """One batch through a file of `export_model`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # while others have their turn
    session = onnxruntime.InferenceSession(path, options)
    inputs = {"images": images.numpy()}
    if len(session.get_inputs()) > 1:
        inputs["classes"] = torch.arange(len(images)).numpy()
    return lambda: session.run(None, inputs)


def show(args: argparse.Namespace, seconds: dict[str, list[float]], sizes: dict[str, int]) -> None:
    """Times as ratios to logits only, medians over the rounds."""
    title = (
        f"Exported files, {args.method}, {args.backbone}, batch {args.batch_size} @{args.image_size}, "
        f"{args.threads} threads, {args.rounds} rounds"
    )
    table = Table("", "time", "fastest ms", "MB", title=title, title_justify="left")
    plain = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(own / other for own, other in zip(times, plain, strict=True))
        size = f"{sizes[name] / 1e6:.1f}" if name in sizes else ""
        table.add_row(name, f"{ratio:.2f} ×", f"{1000 * min(times):.1f}", size)
    Console().print(table)


if __name__ == "__main__":
    main()
