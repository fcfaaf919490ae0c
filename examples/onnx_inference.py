"""Classify a picture with a file of `ggam export`: needs numpy, Pillow and onnxruntime, and not ggam.

python onnx_inference.py model.onnx picture.jpg overlay.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, picture: str, overlay: str) -> None:
    """Print the three most probable classes, and write the picture with its heat map."""
    session = onnxruntime.InferenceSession(model)
    card = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    crop = centre_crop(Image.open(picture), card["image_size"], card["resize"])
    pixels = (np.asarray(crop, np.float32) / 255 - np.float32(card["mean"])) / np.float32(card["std"])
    inputs = {"images": pixels.transpose(2, 0, 1)[None]}
    if len(session.get_inputs()) > 1:  # --classes-input
        inputs["classes"] = np.array([-1])  # the predicted class; any other number is explained instead
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, map(np.asarray, session.run(None, inputs)), strict=True))
    for index in outputs["probabilities"][0].argsort()[::-1][:3]:
        print(f"{outputs['probabilities'][0, index]:6.1%}  {card['class_names'][index]}")
    if "map" in outputs:
        heat = outputs["map"][0] / max(outputs["map"].max(), 1e-12)
        glow = Image.fromarray(heat).resize(crop.size, Image.Resampling.BICUBIC)
        mask = Image.fromarray((np.asarray(glow).clip(0, 1) * 200).astype(np.uint8))
        grey = ImageOps.grayscale(crop).convert("RGB")
        Image.composite(Image.new("RGB", crop.size, "orange"), grey, mask).save(overlay)


def centre_crop(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The picture's shorter side resized to `resize` pixels, and the central square of `size` cut out."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    side = min(image.size) * size / resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
