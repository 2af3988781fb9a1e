"""Errors meant for the user of the command line: one line each, naming what was expected and what was given."""


class SaliencyError(Exception):
    """Base class: something the user can correct. The command line prints it without a traceback."""


class InputError(SaliencyError):
    """A video, folder or frame cannot be read."""


class OutputError(SaliencyError):
    """A result cannot be written."""


class WeightsError(SaliencyError):
    """A weights file is missing, damaged, or belongs to another network."""


def one_line(error: BaseException, *, name: bool = True) -> str:
    """The error's type and the first line of its message, at most 200 characters, to be quoted in a message of ours.

    name: False leaves the type out, unless there is no message.
    """
    kind, text = type(error).__name__, str(error).strip()
    return (f"{kind}: {text}" if name else text or kind).splitlines()[0][:200]
