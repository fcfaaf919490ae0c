"""The layout of CUB-200-2011, which the generated birds share.

classes.txt              1 001.Black_footed_Albatross
images.txt               1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
image_class_labels.txt   1 1
train_test_split.txt     1 0                        (1 is training)
images/                  the pictures
bounding_boxes.txt       1 60.0 27.0 325.0 304.0    (x, y, width, height; may be left out)
parts/parts.txt          1 back                     (may be left out, as all that follows)
parts/part_locs.txt      1 1 312.0 182.0 1          (image, part, x, y, visible)
segmentations/           masks as PNG, under the names of the pictures
parts/discriminative_parts.txt   1 5 9              (class, its parts; generated data only)
"""

from pathlib import Path

from ggam.data.layouts.lists import absent, read_boxes, read_column, read_pairs, read_parts, refuse
from ggam.data.records import DataError, FineGrainedDataset, Sample, readable_names

REQUIRED = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "images")


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = absent(root, REQUIRED)
    # A classes.txt may lie beside anyone's class folders, and a hierarchy.txt makes it NABirds.
    telling = set(REQUIRED) - {"images", "classes.txt"} - set(missing)
    return missing if telling and not (root / "hierarchy.txt").exists() else None


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds images.txt.
        split: `train` or `test`.

    Raises:
        DataError: if a list is missing, has a line of another form, or speaks of a picture, class or
            part that is not in the others.
    """
    if missing := absent(root, REQUIRED):
        raise DataError(f"{root}: {', '.join(missing)} is missing; a CUB folder has {', '.join(REQUIRED)}")
    classes, paths = read_pairs(root / "classes.txt"), read_pairs(root / "images.txt")
    class_of = read_column(root / "image_class_labels.txt", paths)
    return read_birds(root, split, "cub", paths, classes, class_of)


def read_birds(
    root: Path,
    split: str,
    layout: str,
    paths: dict[str, str],
    classes: dict[str, str],
    class_of: dict[str, str],
) -> FineGrainedDataset:
    """Read one split of a data set that has CUB's lists.

    Args:
        root: the folder that holds images.txt.
        split: `train` or `test`.
        layout: the name of the layout.
        paths: picture → its file below images/.
        classes: class → its name, in the order of the labels.
        class_of: picture → its class.

    Raises:
        DataError: as `read`.
    """
    label_of = {identity: label for label, identity in enumerate(classes)}
    for picture in paths:
        if class_of[picture] not in label_of:
            path = root / "image_class_labels.txt"
            refuse(path, f"class {class_of[picture]} of picture {picture} is not in classes.txt")
    boxes = read_boxes(root / "bounding_boxes.txt", paths)
    part_names, parts = read_parts(root / "parts", paths)
    masks = set((root / "segmentations").glob("*/*"))
    samples = []
    for identity in _chosen(root, paths, split):
        mask = root / "segmentations" / Path(paths[identity]).with_suffix(".png")
        samples.append(
            Sample(
                path=root / "images" / paths[identity],
                label=label_of[class_of[identity]],
                box=boxes.get(identity),
                parts=parts.get(identity, ()),
                mask=mask if mask in masks else None,
            )
        )
    return FineGrainedDataset(
        samples,
        readable_names(tuple(classes.values())),
        root=root,
        layout=layout,
        split=split,
        part_names=tuple(part_names.values()),
        discriminative=_discriminative(root, label_of, part_names),
    )


def _chosen(root: Path, paths: dict[str, str], split: str) -> list[str]:
    """The numbers of the pictures of a split."""
    path = root / "train_test_split.txt"
    in_train = read_column(path, paths)
    for identity in paths:
        if in_train[identity] not in ("0", "1"):
            refuse(path, f"expected 0 or 1 for picture {identity}, found {in_train[identity]!r}")
    chosen = [identity for identity in paths if in_train[identity] == ("1" if split == "train" else "0")]
    if not chosen:
        refuse(path, f"no picture belongs to the {split} split")
    return chosen


def _discriminative(
    root: Path, label_of: dict[str, int], part_names: dict[str, str]
) -> dict[int, tuple[int, ...]]:
    path = root / "parts" / "discriminative_parts.txt"
    if not path.exists():
        return {}
    order = {identity: position for position, identity in enumerate(part_names)}
    found = {}
    for identity, parts in read_pairs(path).items():
        if identity not in label_of or not set(parts.split()) <= order.keys():
            refuse(path, f"class {identity} with parts {parts}: not in classes.txt and parts.txt")
        found[label_of[identity]] = tuple(order[part] for part in parts.split())
    return found
