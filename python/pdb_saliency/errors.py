"""Errors meant for the person at the command line: one line each, naming what was expected and what came."""


class SaliencyError(Exception):
    """Base class: something the user can put right. The command line prints it without a traceback."""


class InputError(SaliencyError):
    """A video, folder or frame cannot be read."""


class OutputError(SaliencyError):
    """A result cannot be written."""


class WeightsError(SaliencyError):
    """A weights file is missing, damaged, or belongs to another network."""
