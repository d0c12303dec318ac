"""Points of a sweep whose networks are the same, which are made once.

`<sweep>/.networks/<identity>` names the point that has made a network, or is making it.
"""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.files import make_folder, write_text
from onnxprune.results import store

if TYPE_CHECKING:
    from torch import Tensor

_NETWORKS = ".networks"


@dataclass(frozen=True)
class Twin:
    """A finished point whose network is that of another one."""

    folder: Path
    record: dict[str, Any]

    def masks(self) -> dict[str, "Tensor"]:
        """Layer -> 0/1 mask of what was removed."""
        import safetensors.torch
        import torch

        masks = safetensors.torch.load_file(self.folder / store.MASKS)
        return {name: mask.to(torch.float32) for name, mask in masks.items()}

    def copy_files(self, folder: Path) -> None:
        """Copies the network and, where there are labels, which images it gets right."""
        for name in (store.MODEL, store.RIGHT):
            if name not in self.record["files"]:
                continue
            shutil.copyfile(self.folder / name, folder / name)


def find_twin(folder: Path, identity: str, claim: ExitStack) -> Twin | None:
    """The finished point that has made a network already; None where `folder` is to make it.

    Args:
        folder: of a point that needs the network.
        claim: keeps others that need it waiting, in this process or another, until it is closed.
    """
    note = folder.parent / _NETWORKS / identity
    claim.enter_context(store.claimed(folder.parent / f"network-{identity}"))
    if note.is_file():
        maker = folder.parent / note.read_text(encoding="utf-8").strip()
        record = store.finished_record(maker)
        if maker != folder and record is not None and _is_whole(maker, record, identity):
            return Twin(maker, record)
    note_maker(folder, identity)
    return None


def note_maker(folder: Path, identity: str) -> None:
    """Notes that the point of a folder makes a network, or has made it."""
    write_text(make_folder(folder.parent / _NETWORKS) / identity, f"{folder.name}\n")


def noted_makers(sweep: Path) -> dict[str, str]:
    """Identity of each network -> name of the finished point that has made it."""
    notes = sweep / _NETWORKS
    makers = {note.name: note.read_text(encoding="utf-8").strip() for note in notes.iterdir()} if notes.is_dir() else {}
    records = {name: store.finished_record(sweep / name) for name in makers.values()}
    return {identity: name for identity, name in makers.items() if _has_network(records[name])}


def _is_whole(folder: Path, record: dict[str, Any], identity: str) -> bool:
    same = record["metrics"].get("network_id") == identity and _has_network(record)
    return same and not store.damaged_files(folder, record)


def _has_network(record: dict[str, Any] | None) -> bool:
    """Whether a finished point still has what others can be made of: `clean` may have removed it."""
    return record is not None and {store.MODEL, store.MASKS} <= {*record["files"]}
