"""Help and plans: what a newcomer sees first, and what is known before hours are spent."""

import json
import re
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import called, small_npz

from onnxprune.cli import cli
from onnxprune.commands.points import BASICS, PointCommand, show_all

POINT_COMMANDS = ("sweep", "run", "search", "sensitivity")


def help_of(name: str, everything: bool) -> str:
    context = click.Context(cli, info_name="onnxprune", terminal_width=100)
    command = cli.get_command(context, name)
    assert isinstance(command, PointCommand)
    inner = click.Context(command, info_name=name, parent=context, terminal_width=100)
    if everything:
        show_all(inner)
    return command.get_help(inner)


def flags(text: str) -> list[str]:
    options = text[text.index("What is studied") :]
    return re.findall(r"^  (?:-\w, )?--([\w-]+)", options, re.MULTILINE)


@pytest.mark.parametrize("name", POINT_COMMANDS)
def test_help_shows_the_basics_and_help_all_every_option_once(name: str) -> None:
    context = click.Context(cli, info_name="onnxprune")
    command = cli.get_command(context, name)
    assert command is not None
    inner = click.Context(command, info_name=name, parent=context)
    visible = {
        max(option.opts, key=len).strip("-")
        for option in command.get_params(inner)
        if isinstance(option, click.Option) and not option.hidden
    }
    every = flags(help_of(name, True))
    assert sorted(every) == sorted(visible)
    short = flags(help_of(name, False))
    assert len(short) < 18
    assert {flag.replace("-", "_") for flag in short} <= {*BASICS, *command.basics}  # type: ignore[attr-defined]
    assert f"--help-all lists all {len(every)} options" in help_of(name, False)


@pytest.mark.usefixtures("brief_probe")
def test_each_pair_has_one_spelling_in_the_help_and_both_are_taken() -> None:
    every = flags(help_of("sweep", True))
    assert "seeds" in every and "controls" in every
    assert "seed" not in every and "control" not in every
    for given, seeds in ((["--seeds", "2"], [0, 1]), (["--seeds", "3,7"], [3, 7]), (["--seed", "7"], [7])):
        done = called(
            "sweep", "--model", "slp", "--technique", "weight", "--sparsity", "50", "--dry-run", "--json", *given
        )
        assert [point["seed"] for point in json.loads(done.stdout)["points"]] == seeds


def test_values_say_what_they_are() -> None:
    assert not re.search(r"--[\w-]+ VALUES?\b", help_of("sweep", True))
    assert "--sparsity PERCENT[,...]" in help_of("sweep", False)
    assert "--sparsity PERCENT " in help_of("run", False)


@pytest.mark.usefixtures("brief_probe")
@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_of_several_forms_of_output_none_is_chosen_silently(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    forms = [form for form in ("--json", "--csv", "--latex", "--markdown") if form in options]
    for first, second in pairwise(forms):
        arguments = {"evaluate": [".", "--dataset", "d"], "compare": [".", "."], "predict": [".", "."]}
        given = arguments.get(name, ["."] if any(isinstance(entry, click.Argument) for entry in command.params) else [])
        done = CliRunner().invoke(cli, [name, *given, second, first])
        assert done.exit_code == 2
        assert f"{first} and {second} exclude each other" in done.output


@pytest.mark.parametrize("command", ["run", "search"])
def test_the_other_commands_have_plans_too(command: str, tmp_path: Path) -> None:
    done = called(command, "--model", "slp", "--technique", "weight", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "points    1, from" in done.stdout if command == "run" else "points    at most 7, from" in done.stdout
    assert ("sparsity    50" in done.stdout) == (command == "run")
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_a_plan_is_that_of_finished_points_where_there_are_some(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    point = ["--model", "slp", "--dataset", data, "--technique", "weight", "--epochs", "3", "--latency-seconds", "0"]
    point += ["--out", tmp_path / "runs"]
    assert "probe of 0.25 s" in called("run", *point, "--dry-run").stdout
    assert called("run", *point).returncode == 0
    assert "estimated from finished points" in called("run", *point, "--sparsity", "60", "--dry-run").stdout
    expected = json.loads(called("run", *point, "--dry-run", "--json").stdout)["expected"]
    assert expected["done"] == 1
    assert expected["seconds"] == 0


def test_a_plan_that_cannot_be_pruned_is_told_without_training(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))\n"
    )
    done = called("sweep", "--model", "net.py:make", "--dataset", "mnist", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "the network gives (2, 7) for two images, expected (2, 10)" in done.stderr
