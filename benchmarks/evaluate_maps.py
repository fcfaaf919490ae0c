"""What the heat maps of a whole test set cost: an evaluation with them and one without, side by side.

Both read the same pictures from files, decode, crop and classify them. The pictures are generated.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/evaluate_maps.py
    python benchmarks/evaluate_maps.py --image-size 448 --precision bf16 --pictures 128
"""

import tempfile
from pathlib import Path

import torch

import ggam
from ggam.data.birds.dataset import synthesize
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import Precision, evaluate
from rounds import arguments, measure, show, title


def main() -> None:
    """Measure and print."""
    parser = arguments("What the heat maps of a whole test set cost.", precision="fp32")
    parser.add_argument("--method", default="ggam")
    parser.add_argument("--pictures", type=int, default=64, help="in the test set")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    args = parser.parse_args()

    device = torch.device(args.device)
    precision: Precision = args.precision
    with tempfile.TemporaryDirectory() as folder:
        birds = Path(folder, "birds")
        synthesize(birds, classes=2, train_per_class=1, test_per_class=args.pictures // 2, image_size=256)
        test = ggam.load_dataset(birds, split="test")
        model = ggam.create_model(
            args.backbone,
            class_names=test.class_names,
            method=args.method,
            pretrained=False,
            image_size=args.image_size,
        ).to(device)
        test = test.with_transform(model.config.transform())

        def run(maps: bool) -> EvalReport:
            return evaluate(
                model,
                test,
                batch_size=args.batch_size,
                workers=args.workers,
                precision=precision,
                maps=maps,
            )

        costs = measure(
            {"evaluate": lambda: run(False), "evaluate, maps=True": lambda: run(True)}, args.rounds, device
        )
    show(title(f"{args.pictures} test pictures", args), costs)


if __name__ == "__main__":
    main()
