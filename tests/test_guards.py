"""What README.md says of the suite is so: its tests exist, every column has one, and every mutation can be applied."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = (TESTS / "README.md").read_text(encoding="utf-8")
MUTATIONS = runpy.run_path(str(TESTS / "mutations.py"))["MUTATIONS"]


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def exists(test: str) -> bool:
    file, _, name = test.partition("::")
    return (TESTS / file).is_file() and name in functions_in(TESTS / file)


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py::\w+)`", README)
    assert len(named) > 50
    assert [test for test in named if not exists(test)] == []


def test_every_column_has_a_test_that_would_notice() -> None:
    rows = README.partition("columns of `results.csv`")[2].splitlines()[2:]
    guarded = [column for row in rows for column in re.findall(r"`(\w+)`", row.split("|")[1])]
    columns = (TESTS.parent / "docs" / "columns.md").read_text(encoding="utf-8")
    assert sorted(guarded) == sorted(re.findall(r"^\| `(\w+)` \|", columns, re.MULTILINE))
    assert all("::" in row.split("|")[2] for row in rows)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_can_be_applied(mutation: object) -> None:
    source = (TESTS.parent / "onnxprune" / mutation.file).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    assert source.count(mutation.old) == 1  # type: ignore[attr-defined]
    assert all(exists(test.removeprefix("tests/")) for test in mutation.tests)  # type: ignore[attr-defined]
