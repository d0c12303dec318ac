"""The reference of the command line, made from the commands themselves.

python -m onnxprune.reference > docs/cli.md
"""

import click

from onnxprune.cli import cli
from onnxprune.commands.points import show_all

_WIDTH = 100
_HEAD = """# Command line

Made by `python -m onnxprune.reference > docs/cli.md`; a test keeps it true.

Results go to stdout, progress and notes to stderr. `--json` and `--csv` are for programs. Colours are left out where
`NO_COLOR` is set or the output is no terminal.

| exit code | meaning |
| ---: | --- |
| 0 | done |
| 1 | a run failed: a point that diverged, a rerun that differs, a check of `doctor` that found something broken |
| 2 | what was given cannot be used: one line an error says what was expected and what to do |
| 130 | interrupted by Ctrl-C; what is finished is kept |
| 143, 129 | ended by the system (SIGTERM), or its terminal was closed (SIGHUP); what is finished is kept |

Completion of commands and options in the shell:

```
eval "$(_ONNXPRUNE_COMPLETE=bash_source onnxprune)"     # in ~/.bashrc; zsh_source in ~/.zshrc
_ONNXPRUNE_COMPLETE=fish_source onnxprune | source      # in fish
```
"""


def reference() -> str:
    """The whole page, as Markdown."""
    settings = {**cli.context_settings, "max_content_width": _WIDTH}
    context = click.Context(cli, info_name="onnxprune", terminal_width=_WIDTH, **settings)
    parts = [_HEAD]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None:
            inner = click.Context(command, info_name=name, parent=context, terminal_width=_WIDTH)
            show_all(inner)
            parts.append(f"## onnxprune {name}\n\n```\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
