"""The command line, called in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from xai_align.cli.app import app

#: The network of ``cli_factory``, as the command line takes it.
MODEL = "cli_factory:load"


def run(*words):
    """Run the program with these words; the result has ``exit_code``, ``stdout``, ``stderr`` and ``output``."""
    return CliRunner().invoke(app, [str(word) for word in words])


def explain(*words, model=MODEL):
    return run("explain", *words, "--model", model, "--device", "cpu")
