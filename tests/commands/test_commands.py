"""The table of commands against the commands."""

import click
import pytest

from onnxprune.cli import _COMMANDS, cli


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_is_there_and_says_what_the_overview_says(name: str) -> None:
    context = click.Context(cli, **cli.context_settings)
    command = cli.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.split("\n")[0] == _COMMANDS[name][1]
    for parameter in command.get_params(context):
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name
