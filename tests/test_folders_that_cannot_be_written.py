"""Every command with an --out says that it cannot be written to before it loads a model or reads an image."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from command_line import run

from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align.cli import terminal
from xai_align.report.compare import compare

#: There is neither this network nor these pictures: a command that looks for them says so.
NONE = "timm:no_such_network"
COMMANDS = {
    "demo": ("demo", "--out", "there/o"),
    "explain": ("explain", "none.png", "--model", NONE, "--out", "there/o"),
    "compare": ("compare", "--images", "none.png", "--model", NONE, "--out", "there/o"),
    "export": ("export", "--model", NONE, "--out", "there/o/net.pt2"),
    "fit-pinet": ("fit-pinet", "none", "--backbone", NONE, "--out", "there/o"),
    "fit-align": ("fit-align", "none", "--backbone", NONE, "--out", "there/o"),
    "fit-epic": ("fit-epic", "none", "--model", NONE, "--out", "there/o"),
    "fit-fei": ("fit-fei", "--images", "none", "--model", NONE, "--out", "there/o.safetensors"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xai_align.cli.demo.load_model", lambda reference: pytest.fail("the model was loaded"))
    monkeypatch.setattr("xai_align.cli.demo.find_spec", lambda name: object())
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_the_way_is_told_in_one_sentence_before_anything_else(command):
    Path("there").write_text("a file")
    done = run(*COMMANDS[command])
    assert done.exit_code == 2, done.output
    out = "there/o-fit" if command == "fit-fei" else "there/o"
    told = f"error: '{out}' cannot be written to: 'there' is a file; choose another folder"
    assert done.stderr.splitlines() == [told]
    assert Path("there").read_text() == "a file"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_systems_reason_is_given(command, monkeypatch):
    def refuse(dir):  # the superuser can write everywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr("xai_align._tools.files.writable_folder.TemporaryFile", refuse)
    done = run(*COMMANDS[command])
    assert done.exit_code == 2, done.output
    assert "cannot be written to: Permission denied; choose another folder" in done.stderr
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_name_is_not_the_current_folder(command):
    done = run(*COMMANDS[command][:-1], "")
    assert done.exit_code == 2, done.output
    assert "--out" in done.stderr
    assert "it is empty; give a name" in done.stderr
    assert list(Path().iterdir()) == []


def test_a_comparison_in_python_is_refused_alike():
    Path("there").write_text("a file")
    with pytest.raises(OSError, match="'there' cannot be written to: it is a file"):
        compare(NONE, "none.png", out="there")


@pytest.mark.parametrize("folder", ["new", "new/below", "", ".", "there", "there/new"])
def test_what_can_be_written_is_left_as_it_was(folder):
    Path("there").mkdir()
    check_folder_is_writable(folder)
    assert list(Path().rglob("*")) == [Path("there")]


def test_names_that_cannot_be_are_told():
    with pytest.raises(OSError, match="File name too long"):
        check_folder_is_writable("a" * 300)
    Path("link").symlink_to("nowhere/at/all")
    with pytest.raises(OSError, match="'link' cannot be written to: No such file"):
        check_folder_is_writable("link")
    Path("a\x1b[31mfile").write_text("")
    with pytest.raises(OSError, match=r"^'a\\x1b\[31mfile' cannot be written to: it is a file; "):
        check_folder_is_writable("a\x1b[31mfile")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "o/index\n.html"),
            r"No space left on device: 'o/index\n.html'",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("part 3 is no longer there"), "part 3 is no longer there"),
        (ValueError("a word"), "a word"),
    ],
)
def test_errors_of_the_system_are_told_without_their_number(error, told, capsys):
    with pytest.raises(terminal.typer.Exit), terminal.report_errors():
        raise error
    assert capsys.readouterr().err == f"error: {told}\n"
