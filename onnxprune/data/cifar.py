"""CIFAR-10 and CIFAR-100, which torchvision unpickles."""

from functools import partial
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.data.source import Arrays, DatasetInfo

_CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted names are no easier to read
)


def _read(kind: str, folder: Path) -> Arrays:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    from onnxprune.common.torchvision import torchvision_module

    dataset = getattr(torchvision_module().datasets, kind)
    splits = []
    for train in (True, False):
        try:
            # torchvision checks the MD5 of every file before it unpickles one
            split = dataset(str(folder.parent), train=train, download=False)
        except (RuntimeError, OSError):
            raise InputError(
                f"{folder} is corrupt: files are missing or their MD5s are wrong; delete it to have it downloaded again"
            ) from None
        splits.append((split.data, np.asarray(split.targets)))
    return (*splits[0], *splits[1])


CIFAR10 = DatasetInfo(
    title="CIFAR-10",
    shape=(3, 32, 32),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    train_images=45_000,
    folder="cifar-10-batches-py",
    read=partial(_read, "CIFAR10"),
    torchvision_name="CIFAR10",
)

CIFAR100 = DatasetInfo(
    title="CIFAR-100",
    shape=(3, 32, 32),
    classes=_CIFAR100_CLASSES,
    train_images=45_000,
    folder="cifar-100-python",
    read=partial(_read, "CIFAR100"),
    torchvision_name="CIFAR100",
)
