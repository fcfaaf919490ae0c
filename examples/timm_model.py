"""Any timm network as a GGAM classifier: build, train a step, explain, save and load.

python timm_model.py [NAME OF A TIMM MODEL]
"""

import sys
import tempfile
from pathlib import Path

import torch

import ggam


def main(name: str = "resnet10t") -> None:
    """Show the whole life of a model on pictures of three colours, without a download."""
    torch.manual_seed(0)
    # pretrained=True, the default, starts from the ImageNet weights that timm publishes.
    model = ggam.create_model(
        name, class_names=["auk", "booby", "crake"], pretrained=False, image_size=64, guidance_weight=1.0
    )
    images, labels = torch.rand(6, 3, 64, 64), torch.tensor([0, 1, 2, 0, 1, 2])
    images[range(6), labels] += 0.5

    # As in the paper, what has pre-trained weights learns ten times more slowly than what is new.
    groups = [
        {"params": group.parameters, "lr": 0.002 if group.pretrained else 0.02}
        for group in model.parameter_groups()
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
    for step in range(4):
        terms = model.train().losses(images, labels)  # Eq. 6, weighted
        optimizer.zero_grad()
        (terms["classification"] + terms["guidance"]).backward()
        optimizer.step()
        print(f"step {step + 1}: " + ", ".join(f"{name} {term:.4f}" for name, term in terms.items()))

    explanation = ggam.explain(model, images)  # logits and heat maps, one forward pass
    print(f"{name}: heat maps {tuple(explanation.maps.shape)} of classes {explanation.classes.tolist()}")
    why_not_auk = ggam.explain(model, images, torch.zeros(6, dtype=torch.long))
    print(f"where something speaks for {model.config.class_names[0]}: {(~why_not_auk.empty).tolist()}")

    with tempfile.TemporaryDirectory() as folder:
        ggam.save_model(model, Path(folder, "birds"))  # safetensors and JSON, nothing pickled
        again = ggam.load_model(Path(folder, "birds"))
    assert torch.equal(ggam.explain(again, images).logits, explanation.logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
