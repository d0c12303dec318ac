"""Damaged files, each given to a command: a result or one line, in seconds of the processor, in bounded memory."""

import json
import os
import subprocess
import sys

import mutants
import pytest
from command_line import REPOSITORY
from mutants import Outcome


@pytest.mark.parametrize("number", [40, pytest.param(2000, marks=pytest.mark.slow)])  # half an hour; --from goes on
def test_what_becomes_of_mutants_is_sound(number: int) -> None:
    done = subprocess.run(
        [sys.executable, mutants.__file__, str(number)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    unsound = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    assert not unsound, unsound
    found = json.loads(done.stdout)
    assert found.pop("over 10 s") == found.pop("over 2 GiB") == 0
    assert sum(found.values()) == number
    assert {name.partition(": ")[2] for name in found} == {"result", "refused"}


def test_what_is_not_sound_is_seen() -> None:
    assert mutants._kind(0, "a table\n", "") == "result"
    assert mutants._kind(2, "", "Warning: odd\nError: no\n") == "refused"
    for code, out, err in [(0, "", ""), (2, "", ""), (2, "", "Error: a\nError: b\n"), (1, "half", "Error: a\n")]:
        assert mutants._kind(code, out, err) == "failed"
    assert mutants._kind(99, "", "Traceback (most recent call last):\n") == "failed"
    assert mutants._kind(-11, "", "") == "crashed"
    sound = Outcome(0, ("profile",), "refused", "Error: no", 1.0, 2**28)
    assert sound.sound
    for change in ({"kind": "hung"}, {"seconds": 11.0}, {"memory": 3 * 2**30}, {"left": ("x",)}):
        assert not Outcome(**{**vars(sound), **change}).sound
