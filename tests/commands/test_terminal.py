"""What commands print on terminals that are narrow."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import pytest
from click.testing import CliRunner

from onnxprune.analysis.comparison import compare
from onnxprune.analysis.profiling import profile
from onnxprune.cli import cli
from onnxprune.commands import columns, console, listings
from onnxprune.commands import compare as compare_command
from onnxprune.commands import profile as profile_command
from onnxprune.commands.cells import int8_headings
from onnxprune.commands.profile_rows import print_rows
from onnxprune.commands.tables import _HEADINGS, _fitting
from onnxprune.results.quality import ACCURACY

LONG = "a-pruned-network-whose-name-is-longer-than-most.onnx"
BODY = (
    "blocks (float[N, 3, 8, 8] image) => (float[N, 4, 8, 8] answer)"
    " { first = Conv <pads = [1, 1, 1, 1]> (image, w) answer = Relu (first) }"
)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the width that commands take the terminal to have; None: there is none."""

    def narrowed(width: int | None) -> None:
        for module in (console, columns, listings):
            monkeypatch.setattr(module, "terminal_width", lambda err=False: width)

    return narrowed


def shown(*arguments: Any) -> str:
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,.]*", text))


def words(text: str) -> str:
    """Without what breaks lines and rules tables off."""
    return re.sub(r"[\s-]", "", text)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_profile_and_compare_fit_and_lose_nothing(width: int, narrow: Any, tmp_path: Path, capsys: Any) -> None:
    base = graphs.write(tmp_path / "base.onnx", BODY, w=graphs.ones(4, 3, 3, 3))
    other = graphs.write(tmp_path / LONG, BODY, w=graphs.ones(4, 3, 3, 3))
    entries = [replace(entry, path=Path(LONG)) for entry in compare(base, [other], seconds=0.01, threads=1)]
    found = replace(profile(other, latency=False), path=Path(LONG))
    for printed in (
        lambda: compare_command._print(entries, "cpu"),
        lambda: profile_command._print(found, 10),
        lambda: print_rows([found], None),
    ):
        narrow(None)
        printed()
        whole = capsys.readouterr().out
        narrow(width)
        printed()
        fitted = capsys.readouterr().out
        assert max(map(len, fitted.splitlines())) <= width, fitted
        assert numbers(fitted) == numbers(whole)
        assert words(LONG) in words(fitted)


@pytest.mark.parametrize("command", ["models", "datasets", "techniques"])
def test_listings_fit(command: str, narrow: Any) -> None:
    narrow(None)
    whole = shown(command)
    narrow(80)
    found = shown(command)
    assert max(map(len, found.splitlines())) <= 80
    assert words(whole).replace(";", "") == words(found).replace(";", "")


def test_columns_come_in_even_parts_with_the_names_in_each(narrow: Any) -> None:
    headings = ["name", *(f">x\n{place}" for place in range(6))]
    rows = [["one", *"012345"], ["two", *"6789ab"]]
    narrow(15)
    first, second = (part.splitlines() for part in columns.columns(headings, rows).split("\n\n"))
    assert first == ["name  x  x  x", "      0  1  2", "----  -  -  -", "one   0  1  2", "two   6  7  8"]
    assert second[1:] == ["      3  4  5", "----  -  -  -", "one   3  4  5", "two   9  a  b"]


def test_sentences_are_wrapped_on_terminals_alone_and_names_of_files_stay_whole(narrow: Any, capsys: Any) -> None:
    line = "  - " + "word " * 20 + "folder/a-name-with-hyphens.onnx"
    narrow(None)
    console.prose(line)
    assert capsys.readouterr().out == f"{line}\n"
    narrow(40)
    console.prose(f"{line}\nshort")
    found = capsys.readouterr().out.splitlines()
    assert max(map(len, found)) <= 40 and found[-1] == "short"
    assert [part for part in found if part.endswith("folder/a-name-with-hyphens.onnx")]
    assert {len(part) - len(part.lstrip()) for part in found[1:-1]} == {4}


def test_rows_stay_apart_and_no_cell_is_cut_where_there_are_controls_and_second_files() -> None:
    own = _HEADINGS[ACCURACY]
    cells = dict.fromkeys(own, "36.25 ± 37.91") | {"technique\n": "structured", "asked\n%": "90"}
    headings = [*own[:-1], *int8_headings(ACCURACY), ""]
    lines = [
        [{**cells, "criterion\n": criterion}.get(heading, "36.67 ± 37.32") for heading in headings]
        for criterion in ("l1", "l1, random")
    ]
    kept = _fitting([headings, *lines], 80)
    assert headings.index("criterion\n") in kept
    assert _fitting([headings, lines[0], lines[0]], 80).count(headings.index("criterion\n")) == 0
