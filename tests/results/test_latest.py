"""Points of the same settings that were made anew, of other data or by another version: the latest is in the table."""

import os
from pathlib import Path

from made_up import hand_made, record

from onnxprune.results import store
from onnxprune.results.tables import result_table
from onnxprune.settings.sweep import Sweep


def test_of_the_same_settings_the_latest_counts(tmp_path: Path) -> None:
    settings = {"technique": "weight", "sparsity": [0, 50], "train_limit": 100, "seeds": 2}
    sweep = hand_made(tmp_path, "made", **settings)
    first = result_table(sweep)
    assert len(first) == 4
    plan = Sweep.parse({"model": "cnn", "dataset": "digits", **settings})
    for seconds, accuracy in ((2_000_000_000, 77.0), (1_000_000_000, 66.0)):  # after and before the others
        for point in plan.points[:1]:
            folder = sweep / point.point_id(f"data of {accuracy}")
            store.begin(folder, point.settings())
            (folder / store.MODEL).write_bytes(b"a model")
            store.finish(folder, record(point, accuracy=accuracy))
            os.utime(folder / store.METRICS, (seconds, seconds))
    table = result_table(sweep)
    assert len(table) == 4
    assert (table["accuracy"] == 77.0).sum() == 1
    assert not (table["accuracy"] == 66.0).any()
    assert table["folder"].is_unique
