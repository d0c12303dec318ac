"""Every error that onnxprune raises on purpose.

    OnnxpruneError
    |-- InputError    what the user gave cannot be used: exit code 2
    `-- RunError      a run that was asked for rightly failed: exit code 1

A message says what is wrong, what was expected and what to do, in one line.
"""


class OnnxpruneError(Exception):
    """Base of all errors meant for the user; `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(OnnxpruneError):
    """A name, value or file that cannot be used."""

    exit_code = 2


class RunError(OnnxpruneError):
    """A run that failed on the way: training that diverged, an export that differs from its network."""
