"""Commands whose options are the settings of points."""

from collections.abc import Collection

import click

# section of the help -> its options in order, with what a value of each is; "" for those that say it themselves
_SECTIONS: dict[str, dict[str, str]] = {
    "What is studied": {
        "model": "NAME", "dataset": "NAME", "seed": "N", "seeds": "", "batch_size": "N", "image_size": "SIZE",
        "train_limit": "N", "hidden": "N", "batch_norm": "", "stem": "NAME", "model_args": "JSON", "mean": "NUMBERS",
        "std": "NUMBERS", "images": "",
    },
    "How it is pruned": {
        "technique": "NAME", "sparsity": "PERCENT", "max_drop": "POINTS", "step": "", "criterion": "NAME",
        "schedule": "NAME", "control": "NAME", "controls": "", "adaptive": "", "rounds": "N", "rewind_epoch": "N",
        "granularity": "NAME", "keep": "LAYERS", "channel_align": "N", "keep_dead": "", "also": "NAME",
        "compensate": "", "recalibrate": "",
    },
    "How it is trained": {
        "epochs": "N", "updates": "N", "finetune_epochs": "N", "learning_rate": "RATE",
        "finetune_learning_rate": "RATE",
        "weights": "FILE", "freeze_features": "", "distill": "SHARE", "augment": "NAME", "precision": "NAME",
        "device": "NAME", "devices": "N", "threads": "N",
    },
    "What is timed": {"latency_seconds": "SECONDS", "latency_batch": "N", "latency_threads": "N"},
    "How it is run": dict.fromkeys(
        ("dry_run", "data_dir", "workers", "retry_failed", "executor", "address", "gpus_per_point"), ""
    ),
    "What comes out": dict.fromkeys(
        ("name", "replace", "out", "figure", "json", "csv", "track", "quiet", "verbose"), ""
    ),
    "Help": dict.fromkeys(("help", "help_all"), ""),
}  # fmt: skip

# the dozen that most studies need; the others are told by --help-all
BASICS = frozenset(
    (
        *("model", "dataset", "seed", "seeds", "technique", "sparsity", "schedule", "controls", "epochs"),
        *("dry_run", "data_dir", "name", "out", "help", "help_all"),
    )
)

_ALL = "onnxprune.commands.points.all"  # in a context's meta: help is of all options

_PLURALS = {"seed": "seeds", "control": "controls"}  # what several of them are called


class PointCommand(click.Command):
    """A command whose options are the fields of a point; they are looked up only when it is used.

    A subclass may limit them.
    """

    several = True  # whether axes take several values
    basics: Collection[str] = ()  # options that are basic in this command, beside those that are in all

    def fields(self) -> Collection[str] | None:
        """Those it has; None: all."""
        return None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the fields, and those of the command."""
        from onnxprune.settings.point import FIELDS

        known = super().get_params(ctx)
        names = {parameter.name for parameter in known}
        wanted = self.fields()
        fields = [name for name in FIELDS if name not in names and (wanted is None or name in wanted)]
        return [self._option(name, hidden=_PLURALS.get(name) in names) for name in fields] + known + [_HELP_ALL]

    def _option(self, name: str, hidden: bool) -> click.Option:
        """The option of a field; hidden where it has another spelling here, and is taken all the same."""
        from onnxprune.settings.point import FIELDS
        from onnxprune.settings.sweep import STUDY

        field = FIELDS[name]
        text, several = field.metadata["help"], field.metadata["axis"] and self.several
        if several and name == "sparsity":
            text += "; or FROM:TO:STEP"
        text, mark, default_in_words = text.partition("  [")
        text = f"{text[0].upper()}{text[1:]}.{mark}{default_in_words}"
        default = STUDY.get(name, field.default) if self.several else field.default
        if default is not None and default is not False:
            values = default if isinstance(default, list) else [default]
            shown = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            text += f"  [default: {shown}]"
        flag = f"--{name.replace('_', '-')}"
        if field.default is False:
            return click.Option([flag], is_flag=True, flag_value=True, default=None, help=text)
        return click.Option([flag], metavar=metavar(name) + "[,...]" * several, help=text, hidden=hidden)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Sections, the basic options of each first; the others only where all are asked for."""
        of_all = ctx.meta.get(_ALL, False)
        basics = {*BASICS, *self.basics}
        # by the flag, as click has names of its own
        records = {
            max(option.opts, key=len).strip("-").replace("-", "_"): record
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx))
        }
        for title, names in _SECTIONS.items():
            ordered = sorted((name for name in names if name in records), key=lambda name: name not in basics)
            shown = [records[name] for name in ordered if of_all or name in basics]
            if shown:
                with formatter.section(title):
                    formatter.write_dl(shown)
        if not of_all:
            with formatter.section("More"):
                formatter.write_text(f"{ctx.command_path} --help-all lists all {len(records)} options.")


def metavar(name: str) -> str:
    """What a value of a field is."""
    return next(names[name] for names in _SECTIONS.values() if name in names)


def show_all(ctx: click.Context) -> None:
    """From now on the help of this context is of all options."""
    ctx.meta[_ALL] = True


def _print_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        show_all(ctx)
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_print_all, help="Show all options."
)
