"""Conditions on rows: what people write, and what they mistype."""

from pathlib import Path

import pandas as pd
import pytest
from command_line import called
from made_up import hand_made

from onnxprune.common.errors import InputError
from onnxprune.results.conditions import select

TABLE = pd.DataFrame(
    {"technique": ["weight", "structured", "structured"], "sparsity": [0.0, 50.0, 90.0], "speedup": [1.0, None, 3.5]}
).convert_dtypes()


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ([], [0, 50, 90]),
        (["technique=structured"], [50, 90]),
        (["technique != Structured"], [0]),
        (["technique=weight,structured"], [0, 50, 90]),
        (["speedup > 3"], [90]),
        (["speedup<=3"], [0]),
        (["speedup!=1"], [90]),
        (["sparsity=50,90", "speedup>=1"], [90]),
    ],
)
def test_what_is_selected(conditions: list[str], rows: list[float]) -> None:
    assert list(select(TABLE, conditions)["sparsity"]) == rows


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("sparsty<3", "no column 'sparsty': did you mean 'sparsity'"),
        ("technique<3", "which have no order"),
        ("technique=weight,structred", "no row has technique 'structred': did you mean 'structured'"),
        ("technique=weight,sparsity=50", "no row has technique 'sparsity=50'; .* several --where"),
        ("sparsity>many", "expected a number, got 'many'"),
        ("sparsity", "expected COLUMN"),
        ("sparsity>100", "no row of 3 fulfils"),
    ],
)
def test_what_cannot_be_used_is_said(condition: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        select(TABLE, [condition])


def test_a_column_without_values_is_not_called_one_of_words() -> None:
    untimed = TABLE.assign(speedup=None)
    with pytest.raises(InputError, match="'speedup > 1': no row has speedup, which is empty in all of 3"):
        select(untimed, ["speedup > 1"])


def test_results_as_latex_and_markdown(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "study", technique="weight,structured", sparsity="0,50", seeds=2)
    for path in sweep.glob("*/metrics.json"):
        text = path.read_text().replace('"base_top5', '"test_images": 360, "empty_layers": 0, "base_top5')
        path.write_text(text)
    done = called("results", sweep, "--latex", "--where", "technique=structured")
    assert done.returncode == 0, done.stderr
    for words in (r"\\toprule", r"\\bottomrule", r"\\begin{tabular}{llrr", r"$\\pm$", r"asked \\%"):
        assert words.replace("\\\\", "\\") in done.stdout, words
    rows = [line for line in done.stdout.splitlines() if line.startswith("structured &")]
    assert len(rows) == 2 and all(row.endswith(r"\\") for row in rows)
    assert len({row.count(" & ") for row in rows}) == 1
    marked = called("results", sweep, "--markdown").stdout.splitlines()
    assert sum(line.startswith("| weight |") for line in marked) == 2
    assert len({line.count("|") for line in marked if line.startswith("|")}) == 1
