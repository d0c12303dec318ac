"""Commands whose options are the settings of points."""

from collections.abc import Collection

import click


class PointCommand(click.Command):
    """A command whose options are the fields of a point; they are looked up only when it is used.

    A subclass may limit them.
    """

    several = True  # whether axes take several values

    def fields(self) -> Collection[str] | None:
        """Those it has; None: all."""
        return None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the fields, and those of the command."""
        from onnxprune.settings.point import FIELDS
        from onnxprune.settings.sweep import STUDY

        known = super().get_params(ctx)
        names = {parameter.name for parameter in known}
        fields = self.fields()
        options: list[click.Parameter] = []
        for name, field in FIELDS.items():
            if fields is not None and name not in fields:
                continue
            text = field.metadata["help"]
            if field.metadata["axis"] and self.several:
                text += "; several with commas" + (", or FROM:TO:STEP" if name == "sparsity" else "")
            default = STUDY.get(name, field.default) if self.several else field.default
            if default is not None and default is not False:
                shown = (
                    ",".join(f"{value:g}" if isinstance(value, float) else value for value in default)
                    if isinstance(default, list)
                    else default
                )
                text += f"  [default: {shown}]"
            flag = f"--{name.replace('_', '-')}"
            options.append(
                click.Option([flag], is_flag=True, flag_value=True, default=None, help=text)
                if field.default is False
                else click.Option(
                    [flag],
                    metavar="VALUES" if field.metadata["axis"] and self.several else "VALUE",
                    help=text,
                )
            )
        return [option for option in options if option.name not in names] + known
