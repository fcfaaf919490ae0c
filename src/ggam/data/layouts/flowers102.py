"""The layout of Oxford Flowers-102.

jpg/image_00001.jpg   the pictures
imagelabels.mat       labels, from 1, in the order of the pictures
setid.mat             trnid, valid, tstid: the numbers of the pictures of each split
"""

from pathlib import Path

from ggam.data.layouts.lists import absent, read_mat, refuse
from ggam.data.records import FineGrainedDataset, Sample

_REQUIRED = ("imagelabels.mat", "setid.mat", "jpg")
# The archive gives numbers only; these are the names of its web page, in their order.
_NAMES = (
    "Pink primrose|Hard-leaved pocket orchid|Canterbury bells|Sweet pea|English marigold|Tiger lily|"
    "Moon orchid|Bird of paradise|Monkshood|Globe thistle|Snapdragon|Colt's foot|King protea|Spear thistle|"
    "Yellow iris|Globe-flower|Purple coneflower|Peruvian lily|Balloon flower|Giant white arum lily|Fire lily|"
    "Pincushion flower|Fritillary|Red ginger|Grape hyacinth|Corn poppy|Prince of Wales feathers|"
    "Stemless gentian|Artichoke|Sweet William|Carnation|Garden phlox|Love in the mist|Mexican aster|"
    "Alpine sea holly|Ruby-lipped cattleya|Cape flower|Great masterwort|Siam tulip|Lenten rose|"
    "Barbeton daisy|Daffodil|Sword lily|Poinsettia|Bolero deep blue|Wallflower|Marigold|Buttercup|"
    "Oxeye daisy|Common dandelion|Petunia|Wild pansy|Primula|Sunflower|Pelargonium|Bishop of Llandaff|Gaura|"
    "Geranium|Orange dahlia|Pink-yellow dahlia|Cautleya spicata|Japanese anemone|Black-eyed Susan|"
    "Silverbush|Californian poppy|Osteospermum|Spring crocus|Bearded iris|Windflower|Tree poppy|Gazania|"
    "Azalea|Water lily|Rose|Thorn apple|Morning glory|Passion flower|Lotus|Toad lily|Anthurium|Frangipani|"
    "Clematis|Hibiscus|Columbine|Desert-rose|Tree mallow|Magnolia|Cyclamen|Watercress|Canna lily|Hippeastrum|"
    "Bee balm|Ball moss|Foxglove|Bougainvillea|Camellia|Mallow|Mexican petunia|Bromelia|Blanket flower|"
    "Trumpet creeper|Blackberry lily"
)
CLASS_NAMES = tuple(_NAMES.split("|"))


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    missing = absent(root, _REQUIRED)
    return missing if {"imagelabels.mat", "setid.mat"} - set(missing) else None


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the folder that holds `jpg/`.
        split: `train`, which is the archive's trnid and valid, 2040 pictures, as fine-tuning papers
            take them; or `test`, its tstid, 6149.

    Raises:
        DataError: if a list is missing or damaged.
    """
    (labels,) = read_mat(root / "imagelabels.mat", "labels")
    sets = read_mat(root / "setid.mat", *(("trnid", "valid") if split == "train" else ("tstid",)))
    samples = []
    for picture in (int(number) for numbers in sets for number in numbers):
        if not 1 <= picture <= len(labels):
            refuse(root / "setid.mat", f"picture {picture}: expected a number from 1 to {len(labels)}")
        label = int(labels[picture - 1]) - 1
        if not 0 <= label < len(CLASS_NAMES):
            refuse(root / "imagelabels.mat", f"label {label + 1} of picture {picture}: expected 1 to 102")
        samples.append(Sample(root / "jpg" / f"image_{picture:05d}.jpg", label))
    return FineGrainedDataset(samples, CLASS_NAMES, root=root, layout="flowers102", split=split)
