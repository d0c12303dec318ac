"""Records and specs that somebody edited at random, through the commands that read them: never a traceback."""

import json
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import SQUARES, classifier, square_finder
from command_line import called
from made_up import hand_made

from onnxprune.common.errors import RunError
from onnxprune.results import store
from onnxprune.study import rerun

HUGE = "9" * 400
VALUES = [
    "null", "true", "0", "-1", "3.5", "1e308", "-1e308", "1e999", "NaN", "-Infinity", HUGE, f"-{HUGE}", f"0.{HUGE}",
    str(2**63), '""', '"x"', '"50"', '"cnn"', json.dumps("\x1b[2J\nError: forged\u202e"), '"\\ud800"', '"\\u0000"',
    '"../../etc"', f'"{HUGE}"', "[]", "{}", "[1]", '{"a": 1}', "[" * 90_000 + "]" * 90_000,
    '{"a":' * 900 + "1" + "}" * 900, "[" + "1," * 50_000 + "1]", "'''x'''", "1979-05-27", "[[]]", "{a = 1}", "+inf",
    "0x10",
]  # fmt: skip
COMMANDS = [
    ("results", "SWEEP"), ("results", "SWEEP", "--json"), ("results", "SWEEP", "--latex"), ("report", "SWEEP"),
    ("results", "SWEEP", "--where", "accuracy > 50"), ("plot", "SWEEP", "--out", "figure.svg"),
    ("plot", "SWEEP", "--x", "macs", "--log-x", "--out", "figure.svg"), ("deploy", "SWEEP", "--out", "models"),
    ("deploy", "SWEEP", "--out", "models", "--max-drop", "9"), ("deploy", "SWEEP", "--out", "models", "--bake"),
    ("rerun", "SWEEP"), ("rerun", "POINT"), ("retime", "SWEEP"), ("clean", "SWEEP", "--dry-run"),
    ("clean", "SWEEP", "--max-drop", "50"), ("sweep", "SWEEP/sweep.toml", "--dry-run"),
]  # fmt: skip


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/demo, finished, and models/, with what was deployed before."""
    place = tmp_path_factory.mktemp("intact")
    sweep = hand_made(place / "runs", "demo", technique="weight,structured", sparsity="0,50,90", seeds=2)
    for folder in [path.parent for path in sweep.glob(f"*/{store.METRICS}")]:
        classifier(folder / store.MODEL, square_finder(), metadata=SQUARES)
        found = store.finished_record(folder)
        assert found is not None
        store.finish(folder, found)
    done = called("deploy", sweep, "--out", place / "models", "--max-drop", "9")
    assert done.returncode == 0, done.stderr
    return place


def test_what_a_record_lacks_is_said_in_the_card(intact: Path) -> None:
    (card,) = (intact / "models").glob("*.md")
    assert "torch (not recorded)" in card.read_text()
    assert "trained on (not recorded) images and tested on 1,000" in card.read_text()


def _value(rng: random.Random) -> str:
    return rng.choice(VALUES)


def _lines(text: str, rng: random.Random) -> str:
    """One value of the text becomes another, whatever that makes of the text; or a line goes, or is there twice."""
    lines = text.splitlines()
    places = [place for place, line in enumerate(lines) if ":" in line or "=" in line] or [0]
    at = rng.choice(places)
    kind = rng.choice(["value", "value", "value", "value", "remove", "twice"])
    if kind == "remove":
        del lines[at]
    elif kind == "twice":
        lines.insert(at, lines[at])
    else:
        mark = ":" if ":" in lines[at] else "="
        name, _, rest = lines[at].partition(mark)
        lines[at] = f"{name}{mark} {_value(rng)}{',' if rest.endswith(',') else ''}"
    return "\n".join(lines)


def _tree(text: str, rng: random.Random) -> str:
    """Something of a JSON value, however deep, becomes another one, or has another name, or goes."""
    found = json.loads(text)
    holder = found
    while True:
        keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return text
        key = rng.choice(keys)
        if not isinstance(holder[key], dict | list) or rng.random() < 0.3:
            break
        holder = holder[key]
    mark = "what it becomes"
    kind = rng.choice(["value", "value", "value", "value", "remove", "rename"])
    if kind == "value":
        holder[key] = mark
    else:
        old = holder.pop(key)
        if kind == "rename" and isinstance(holder, dict):
            holder[rng.choice(["", "x", "\x1b[2J", "../x", "accuracy", key.upper()])] = old
    return json.dumps(found, indent=1).replace(json.dumps(mark), _value(rng))


def _bytes(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    at = rng.randrange(len(content) or 1)
    flipped = bytes([*content[:at], rng.randrange(256), *content[at + 1 :]])
    text = content.decode(errors="replace")
    choices = [b"", content[:at], flipped, b"\xff\xfe" + content, b"\xef\xbb\xbf" + content, text.encode("utf-16")]
    path.write_bytes(rng.choice([*choices, content + content, b"\x00" * 100, rng.randbytes(200)]))


def _another_kind_of_file(path: Path, rng: random.Random) -> None:
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
    else:
        path.symlink_to(rng.choice([path.name, "nowhere", "/dev/null", "/"]))


def edit(path: Path, rng: random.Random) -> None:
    """One edit of a file."""
    kind = rng.random()
    if kind < 0.08:
        _another_kind_of_file(path, rng)
    elif kind < 0.2 or path.suffix not in (".json", ".toml"):
        _bytes(path, rng)
    else:
        change: Callable[[str, random.Random], str] = _tree if path.suffix == ".json" and kind < 0.8 else _lines
        path.write_text(change(path.read_text(), rng), errors="surrogatepass")


def tried(place: Path, words: tuple[str, ...]) -> str:
    """What is wrong with how a command ends; nothing in an orderly case."""
    sweep = place / "runs/demo"
    point = str(next(iter(sorted(sweep.glob("*-s50-*"))), sweep))
    try:
        done = called(*(word.replace("SWEEP", str(sweep)).replace("POINT", point) for word in words), cwd=place)
    except BaseException:
        return traceback.format_exc()
    said = done.stdout + done.stderr
    if "Traceback" in said:
        return said
    if done.returncode not in (0, 1, 2) or (done.returncode and "Error: " not in done.stderr):
        return f"exit code {done.returncode}: {said}"
    if any(not letter.isprintable() and letter not in "\n\t" for letter in said) or "\nError: forged" in said:
        return f"not plain: {said!a}"
    return ""


@pytest.mark.parametrize("number", [5, pytest.param(600, marks=pytest.mark.slow)])  # seconds, and minutes
def test_records_edited_at_random_end_in_a_result_or_a_line(
    number: int, intact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_run(*arguments: Any, **how: Any) -> Any:
        raise RunError("it would be run again")

    monkeypatch.setattr(rerun, "run_sweep", no_run)
    wrong = {}
    for index in range(number):
        rng = random.Random(index)
        place = Path(shutil.copytree(intact, tmp_path / str(index)))
        files = sorted(path for path in place.rglob("*") if path.is_file())
        records = [path for path in files if path.suffix in (".json", ".toml")]
        edited = {rng.choice(rng.choice([records, records, records, files])) for _ in range(rng.choice([1, 1, 2, 5]))}
        for path in sorted(edited):
            edit(path, rng)
        for words in rng.sample(COMMANDS, 3):
            problem = tried(place, words)
            if problem:
                wrong[f"{index}: {' '.join(words)}: {sorted(path.name for path in edited)}"] = problem
        shutil.rmtree(place)
    assert not wrong, "\n\n".join(f"{name}\n{problem[-1500:]}" for name, problem in wrong.items())
