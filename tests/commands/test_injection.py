"""Texts of strangers: they never command a terminal, a spreadsheet, a reader of Markdown or Triton."""

import csv
import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from click.testing import CliRunner
from command_line import called
from google.protobuf.text_encoding import CUnescape
from onnx import TensorProto, helper

from onnxprune.analysis.evaluation import as_logits, score
from onnxprune.cli import cli
from onnxprune.commands.columns import columns, csv_text
from onnxprune.common.output import printable
from onnxprune.common.spreadsheets import csv_of
from onnxprune.delivery.deployment import _escaped
from onnxprune.delivery.facts import Facts, Output
from onnxprune.delivery.modelcard import _code, _literal
from onnxprune.delivery.snippets import of_plain
from onnxprune.graph.images import Layout
from onnxprune.graph.metadata import Normalisation, parse
from onnxprune.results import store

EVIL = "a\x1b[2J\x1b]0;owned\x07\nError: forged\r\x9b31m\u202eb"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A model whose every name is made to be printed."""
    graph = helper.make_graph(
        [
            helper.make_node("Relu", [EVIL], ["h"], name=EVIL),
            helper.make_node("Evil" + EVIL, ["h"], ["y"], domain=EVIL),
        ],
        "g",
        [helper.make_tensor_value_info(EVIL, TensorProto.FLOAT, [1, "n" + EVIL])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(EVIL, 1)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name=EVIL, ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps([EVIL]), "dataset": EVIL, "technique": EVIL})
    onnx.save(model, tmp_path / "evil.onnx")
    return tmp_path / "evil.onnx"


def assert_plain(text: str) -> None:
    assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
    assert not any(line.startswith("Error: forged") for line in text.splitlines())


@pytest.mark.parametrize(
    "command",
    [
        ("profile", "--no-latency", "--input", "8x4"),
        ("profile", "--no-latency", "--csv"),
        ("profile",),
        ("compare",),
        ("evaluate", "--dataset", "digits"),
        ("predict", "picture.png"),
        ("prune", "--dry-run", "--sparsity", "50"),
    ],
)
def test_names_in_a_file_do_nothing_to_a_terminal(evil: Path, command: tuple[str, ...]) -> None:
    files = (evil, evil) if command[0] == "compare" else (evil,)
    done = called(command[0], *files, *command[1:])
    assert_plain(done.stdout + done.stderr)
    assert done.stdout + done.stderr


def test_names_that_are_counted_are_printed_plainly(evil: Path) -> None:
    model = onnx.load(evil)
    del model.graph.node[1:]
    model.graph.node[0].output[0] = "y"
    onnx.save(model, evil)
    for more in ((), ("--csv",), ("--json",)):
        done = called("profile", evil, "--no-latency", "--input", f"{EVIL}:1x4", *more)
        assert done.returncode == 0, done.stderr
        assert_plain(done.stdout + done.stderr)
        assert "owned" in done.stdout


def test_class_names_of_metadata_are_printable_or_none() -> None:
    known = parse({"classes": json.dumps(["a", EVIL]), "dataset": EVIL, "technique": EVIL, "spec_hash": EVIL})
    assert (known.classes, known.dataset, known.technique, known.spec_hash) == (None, None, None, None)
    assert len(known.problems) == 4
    assert all(problem.isprintable() for problem in known.problems)


def test_numbers_of_400_digits_in_metadata_are_none() -> None:
    huge = "9" * 400
    known = parse(
        {"mean": f"[{huge}]", "std": "[1]", "input_shape": f"[1, {huge}, 2]", "sparsity": huge, "accuracy": "1" * 5000}
    )
    assert known.problems
    assert (known.normalisation, known.input_shape, known.sparsity, known.accuracy) == (None, None, None, None)
    known = parse({"input_shape": "[3, 1000000000, 1000000000]"})
    assert known.input_shape is None


def test_an_argument_is_printed_plainly_too() -> None:
    for command in (("profile", f"{EVIL}.onnx"), ("sweep", "--model", EVIL), ("profile", "a", "--threads", EVIL)):
        done = called(*command)
        assert done.returncode == 2
        assert_plain(done.stderr)


def test_reasons_of_failures_are_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "point").mkdir()
    (tmp_path / store.SPEC).write_text("")
    (tmp_path / "point" / store.ERROR).write_text(EVIL)
    done = CliRunner().invoke(cli, ["results", str(tmp_path)])
    assert_plain(done.output)
    assert "owned" in done.output


def test_cells_of_text_are_no_formulas() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\uff1d1", "plain", "a=b", ""]
    expected = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\uff1d1", "plain", "a=b", ""]
    rows = [{"=name": text, "number": -1.5, "list": ["=x"]} for text in texts]
    read = list(csv.reader(io.StringIO(csv_text(rows))))
    assert read[0] == ["'=name", "number", "list"]
    assert [row[0] for row in read[1:]] == expected
    assert {tuple(row[1:]) for row in read[1:]} == {("-1.5", '["=x"]')}
    table = pd.DataFrame(rows)[["=name", "number"]]
    read = list(csv.reader(io.StringIO(csv_of(table))))
    assert read[0] == ["'=name", "number"]
    assert read[1:] == [[text, "-1.5"] for text in expected]
    assert csv_of(pd.DataFrame({"a": [1, None], "b": ["x", None]}).convert_dtypes()) == "a,b\n1,x\n,\n"


def test_columns_keep_their_lines() -> None:
    assert columns([">n", "name"], [["1", EVIL]]).count("\n") == 2


def facts(name: str) -> Facts:
    layout = Layout.__new__(Layout)
    object.__setattr__(layout, "axes", (0, 1, 2, 3))
    object.__setattr__(layout, "sizes", (1, 2, 2))
    return Facts(name, (Output(name, (1,), "FLOAT"),), Normalisation((0.0,), (1.0,)), (1, 2, 2), layout, ("a",))


@pytest.mark.parametrize("name", ['x"); import os; os.system("echo', "x\n```\n# forged", "a`b``c", "<img src=x>", "\\"])
def test_names_in_a_card_are_code_and_words(name: str) -> None:
    lines = [line for line in of_plain("model.onnx", facts(name)) if not line.startswith("```")]
    assert all("\n" not in line for line in lines)
    compile("\n".join(lines), "card", "exec")
    assert any(json.dumps(name) in line for line in lines)
    code = _code(name)
    fence = code[: len(code) - len(code.lstrip("`"))]
    assert fence not in code[len(fence) : -len(fence)]
    assert "\n" not in code
    assert "<img" not in _literal(name).replace("\\<img", "")


@pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", 'x" }] platform: "evil', "\u00e4\x1b"])
def test_names_in_tritons_configuration_stay_between_their_quotes(name: str) -> None:
    escaped = _escaped(name)
    assert '"' not in escaped
    assert escaped.isprintable()
    assert CUnescape(escaped).decode() == name


def test_huge_answers_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        huge = np.full((2, 3), np.finfo(np.float32).max, np.float32)
        assert as_logits(huge) is huge
        assert math.isfinite(score(huge, np.array([0, 1])).accuracy)
        score(np.array([[np.inf, 0], [np.nan, 1]]), np.array([0, 1]))


def test_a_warning_of_a_library_has_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxprune.models

    items = type(onnxprune.models.MODELS).items

    def warn(self: object) -> list[object]:
        warnings.warn("overflow\nencountered", RuntimeWarning, stacklevel=1)
        return items(self)

    monkeypatch.setattr(type(onnxprune.models.MODELS), "items", warn)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    done = called("models")
    assert "Warning: overflow encountered\n" in done.stderr
    assert ".py" not in done.stderr


def test_printable_leaves_what_people_write() -> None:
    assert printable("Grüße, 数字 und ein Wort") == "Grüße, 数字 und ein Wort"
    assert printable("a\x1b[31m") == "a\\x1b[31m"
