"""Tables for people."""

import io
from pathlib import Path

import pandas as pd
import pytest
from made_up import hand_made
from rich.console import Console

from onnxprune.commands import tables
from onnxprune.commands.answers import print_search
from onnxprune.commands.cells import WIDE, compact
from onnxprune.commands.tables import _HEADINGS, _fitting
from onnxprune.results.quality import ACCURACY
from onnxprune.results.tables import result_table
from onnxprune.study.search import Search, Trial


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10k"),
        (408_044, "408k"),
        (1_688_550, "1.689M"),
        (57_829_376, "57.83M"),
        (2_834_161_664, "2.834G"),
        (6.87e12, "6.87T"),
    ],
)
def test_counts_are_shown_to_four_digits(number: float, shown: str) -> None:
    assert compact(number) == shown


HEADINGS = _HEADINGS[ACCURACY]
LINES = [
    [*HEADINGS],
    [
        "unstructured",
        "l1",
        "100",
        "100.0",
        "97.50",
        "97.50",
        "95.3-98.7",
        "~+0.28",
        "0.068",
        "4.241M",
        "4.241M",
        "421.6k",
        "1.689M",
        "14.0",
        "1.970",
        "~1.01x",
        "collapsed",
    ],
]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140])
def test_a_table_keeps_the_columns_that_matter_and_fits(width: int) -> None:
    kept = _fitting(LINES, width)
    assert sum(max(map(len, (LINES[1][index], *HEADINGS[index].split("\n")))) + 2 for index in kept) <= max(width, 72)
    assert {"technique\n", "asked\n%", "acc\n%", "MACs\n", "speedup\n"} <= {HEADINGS[index] for index in kept}


def test_a_wide_terminal_shows_every_column() -> None:
    assert _fitting(LINES, WIDE) == list(range(17))


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_remark_is_wrapped_and_no_number_is_cut(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = result_table(hand_made(tmp_path, "one", technique="unstructured", sparsity="50,100", seeds=2))
    monkeypatch.setattr(tables, "_collapsed", lambda seeds: ["collapsed 2 of 2, 99.9 %", "= neuron taylor 100"])
    screen = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(tables, "terminal", lambda: screen)
    tables.print_results(table)
    text = screen.file.getvalue()
    assert "…" not in text
    assert "unstructured" in text and "taylor" in text


def test_rows_that_are_the_same_network_are_marked_where_the_first_of_them_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Console(width=WIDE, file=io.StringIO())
    monkeypatch.setattr(tables, "terminal", lambda: screen)
    table = result_table(hand_made(tmp_path, "one", technique="weight,neuron,structured", sparsity="50"))
    table["network_id"], table["same_as"] = "one", [None, *[table["folder"][0]] * 2]
    tables.print_results(table[1:])
    text = screen.file.getvalue()
    first_shown = table.iloc[1]
    assert "2 rows, 1 network: rows marked = are the same network" in text
    assert f"= {first_shown['technique']} {first_shown['criterion']} 50" in text


def test_the_second_file_is_in_the_answer_of_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"achieved_sparsity": 50.0, "accuracy": 97.0, "macs": 1000.0, "file_bytes": 5000.0, "speedup": 2.0}
    second = {"int8_accuracy": 96.5, "int8_file_bytes": 1600.0, "int8_speedup": 3.25}
    trials = [Trial(50.0, 0.5, accepted=True, reused=False)]
    found = [
        Search(
            {"technique": "structured", "criterion": "l1", "control": "none"}, trials, sparsity=50.0, metrics=metrics
        )
        for metrics in ({**plain, **second}, plain)
    ]
    print_search(found, 1.0)
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "int8 acc" in line)
    assert heading.count("int8") == 3
    first, other = (line.split() for line in lines if line.split()[:1] == ["structured"])
    assert first[2:] == ["50", "50.0", "0.50", "97.00", "1000", "5000", "2.00x", "96.50", "1600", "3.25x", "50"]
    assert other[-4:] == ["-", "-", "-", "50"]
    print_search(found[1:], 1.0)
    assert "int8" not in capsys.readouterr().out


def test_headlines_are_of_the_rows_that_are_shown_and_say_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hand_made(tmp_path, "one", technique="weight,structured", sparsity="0,50", batch_size="32,256")
    monkeypatch.setattr(tables, "intact", lambda table, sweep, say: table)
    table = result_table(folder)
    tables.print_headlines(table, folder)
    both = capsys.readouterr().out
    assert "cnn on digits, batch 32, best within" in both and "cnn on digits, batch 256, best within" in both
    tables.print_headlines(table[(table["batch_size"] == 32) & (table["technique"] == "weight")], folder)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "best within" in line]
    assert "batch 32, best within" in line and ": weight l1, " in line and "batch 256" not in line
    tables.print_headlines(table[:0], folder)
    assert capsys.readouterr().out == ""


def test_tables_for_papers_say_the_batch(tmp_path: Path) -> None:
    folder = hand_made(tmp_path, "one", technique="weight", sparsity="0,50", batch_size="32,256")
    captions = [table.caption for table in tables.paper_tables(result_table(folder))]
    assert [caption.partition(", schedule")[0] for caption in captions] == [
        "cnn on digits, batch 32", "cnn on digits, batch 256",
    ]  # fmt: skip


def test_each_study_has_its_own_timing_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(width=WIDE, file=io.StringIO())
    monkeypatch.setattr(tables, "terminal", lambda: screen)
    table = result_table(hand_made(tmp_path, "one", technique="weight", sparsity="0,50", batch_size="32,256"))
    table["speedup"], table["speedup_noise"] = 1.5, [0.05, 0.05, 0.8, 0.8]
    assert table["batch_size"].tolist() == [32, 32, 256, 256]
    tables.print_results(table)
    text = screen.file.getvalue()
    assert "Timing noise ±5.0 to ±80.0 %, by study" in text
    small, _, large = text.partition("batch 256")
    assert "~1.50x" not in small and "1.50x" in small and large.count("~1.50x") == 2


def printed(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    screen = Console(width=WIDE, file=io.StringIO())
    monkeypatch.setattr(tables, "terminal", lambda: screen)
    tables.print_results(table)
    return screen.file.getvalue().splitlines()


def test_equal_networks_of_one_seed_do_not_make_rows_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = result_table(hand_made(tmp_path, "one", technique="neuron,structured", sparsity="50", seeds=2))
    first, second = (table.index[table["technique"] == name] for name in ("neuron", "structured"))
    table["network_id"] = [f"network{place}" for place in range(len(table))]
    table.loc[second[0], "network_id"] = table.loc[first[0], "network_id"]
    assert not [line for line in printed(table, monkeypatch) if line.startswith(" structured") and " = " in line]
    table.loc[second[1], "network_id"] = table.loc[first[1], "network_id"]
    assert [line for line in printed(table, monkeypatch) if line.rstrip().endswith("= neuron taylor 50")]


def test_a_mean_over_fewer_seeds_than_the_others_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = result_table(hand_made(tmp_path, "one", technique="weight", sparsity="0,50", seeds=3))
    assert not [line for line in printed(table, monkeypatch) if "of 3 seeds" in line]
    left = table.drop(table.index[(table["sparsity"] == 50) & (table["seed"] == 1)])
    (line,) = [line for line in printed(left, monkeypatch) if "of 3 seeds" in line]
    assert line.split()[:3] == ["weight", "l1", "50"] and line.rstrip().endswith("2 of 3 seeds")


def test_what_adaptive_was_asked_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = result_table(hand_made(tmp_path, "one", technique="weight", sparsity="0,50"))
    assert [line.split()[2] for line in printed(table, monkeypatch) if line.startswith(" weight")] == ["0", "50"]
    table["schedule"] = "adaptive"
    assert [line.split()[2] for line in printed(table, monkeypatch) if line.startswith(" weight")] == ["0", "≤50"]


def test_a_speedup_within_the_noise_is_marked_in_the_headline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hand_made(tmp_path, "one", technique="structured", sparsity="50")
    monkeypatch.setattr(tables, "intact", lambda table, sweep, say: table)
    table = result_table(folder).assign(validation_accuracy=98.0)
    for speedup, shown in ((1.02, "speedup ~1.02x"), (1.5, "speedup 1.50x")):
        tables.print_headlines(table.assign(speedup=speedup, speedup_noise=0.05), folder)
        assert shown in capsys.readouterr().out


def test_files_in_8_bits_that_have_collapsed_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = result_table(hand_made(tmp_path, "one", technique="weight", sparsity="50", seeds=2))
    table = table.assign(int8_accuracy=[10.0, 97.0], int8_file_bytes=1000, int8_speedup=1.0, int8_speedup_noise=0.01)
    (line,) = [line for line in printed(table.assign(int8_collapsed=[True, False]), monkeypatch) if "collapsed" in line]
    assert "int8" in line and "1 of 2" in " ".join(printed(table.assign(int8_collapsed=[True, False]), monkeypatch))
