"""Imported last in a server that processes are forked from: what is loaded when it is first used has been used by then,
and none of the processes need walk through what is there."""

import gc
import os
import sys
import tempfile
from pathlib import Path

import torch
from made_up import hand_made

from onnxprune.bridge.export import export
from onnxprune.report.page import write
from onnxprune.report.sources import read

with tempfile.TemporaryDirectory() as place:
    write(
        read([hand_made(Path(place), "study", technique="weight,neuron", sparsity="0,50")]), Path(place) / "page.html"
    )
    export(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)), Path(place) / "model.onnx", (1, 8, 8))
gc.freeze()
gc.enable()
sys.stderr = sys.__stderr__
os.fsync = lambda descriptor: None  # as in conftest.py
