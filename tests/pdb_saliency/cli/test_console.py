"""What commands print: --quiet, --verbose, and names of files that hold control characters."""

import logging

import pytest

from helpers.console import help_of
from helpers.films import grey_frame, write_frames
from pdb_saliency import cli
from pdb_saliency.cli.console import Verbosity, library_on_console

COMMANDS = ["predict", "demo", "data", "train", "evaluate", "reproduce", "bench", "export", "info"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_quiet_and_verbose(command, capsys):
    text = help_of([command], capsys)
    assert "-q, --quiet" in text and "-v, --verbose" in text
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "-q", "-v"])
    assert stop.value.code == 2 and "not allowed with argument" in capsys.readouterr().err


def test_quiet_and_verbose_of_evaluate(tmp_path, capsys):
    """The table was asked for; notes were not."""
    for name in ("maps", "masks"):
        write_frames(tmp_path / name, [grey_frame(255 * (i % 2)) for i in range(3)])
    write_frames(tmp_path / "maps", [grey_frame(0)] * 4)  # One more than there are masks, which is reported.
    command = ["evaluate", str(tmp_path / "maps"), str(tmp_path / "masks")]
    assert cli.main(command) == 0
    plain = capsys.readouterr()
    assert "note: " in plain.err and "info: " not in plain.err
    assert cli.main([*command, "-q"]) == 0
    assert tuple(capsys.readouterr()) == (plain.out, "")
    assert cli.main([*command, "-v"]) == 0
    verbose = capsys.readouterr()
    assert verbose.out == plain.out and "info: " in verbose.err and "3 maps" in verbose.err


def test_quiet_work_lists_and_data_sets(tmp_path, grey_model, capsys):
    folders = [str(write_frames(tmp_path / name, [grey_frame(9)] * 2)) for name in "ab"]
    assert cli.main(["predict", *folders, "-o", str(tmp_path / "out"), "-q"]) == 0
    assert tuple(capsys.readouterr()) == ("", "")
    for kind, grey in (("images", 90), ("masks", 255)):
        write_frames(tmp_path / "set" / kind, [grey_frame(grey)] * 2)
    assert cli.main(["data", str(tmp_path / "set"), "-v"]) == 0
    assert f"info: set: below {tmp_path / 'set' / 'images'}" in capsys.readouterr().err


def test_info_reports_more_when_asked(capsys):
    assert cli.main(["info"]) == 0
    short = capsys.readouterr().out
    assert cli.main(["info", "-v"]) == 0
    long = capsys.readouterr().out
    assert long.startswith(short) and "pytorch:" in long and len(long.splitlines()) > len(short.splitlines()) + 5


def test_quiet_and_verbose(frames, tmp_path, grey_model, capsys):
    assert cli.main(["predict", frames, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert tuple(capsys.readouterr()) == ("", "")
    assert cli.main(["predict", "nowhere", "-o", str(tmp_path / "out"), "-q"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.main(["predict", frames, "-o", str(tmp_path / "out"), "-v"]) == 0
    error = capsys.readouterr().err
    assert "info: " in error and "2 frames" in error and "grey, on " in error and "frames/s" in error


def test_control_characters_of_files_do_not_reach_the_terminal(tmp_path, capsys):
    (tmp_path / "a\x1b[31m\x9b.txt").touch()
    assert cli.main(["predict", str(tmp_path / "a\x1b[31m\x9b.txt"), "-o", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err
    assert r"a\x1b[31m\x9b.txt: the file is empty" in line and line[:-1].isprintable()


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2Jgone", "tab\there", "\r\x85\u2028\u202eends"])
def test_names_with_control_characters_stay_on_their_line(tmp_path, grey_model, capsys, name):
    """On stdout and stderr, of files, folders and work lists; the results themselves go where the names say."""
    folder = write_frames(tmp_path / name / "in", [grey_frame(9)] * 2)
    out = tmp_path / name / "out"
    (folder / f"{name}.png").write_bytes(b"no picture")
    assert cli.main(["predict", str(folder), "-o", str(out), "-v"]) == 1
    (folder / f"{name}.png").unlink()
    assert cli.main(["predict", str(folder), "-o", str(out)]) == 0
    assert cli.main(["predict", str(folder), str(tmp_path / name / "absent"), "-o", str(out)]) == 1
    assert (out / "maps" / "00000.png").exists()
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        lines = text.splitlines()
        assert all(line.isprintable() for line in lines) and len(lines) == text.count("\n") == len(text.split("\n")) - 1
        assert all(line.startswith(("pdb-saliency: ", "2 frames -> ", "[1/2] ", "[2/2] ")) for line in lines), lines


def test_data_sets_and_methods_with_control_characters_stay_on_their_line(tmp_path, capsys):
    for kind, grey in (("images", 90), ("masks", 255)):
        write_frames(tmp_path / "a\nb" / kind, [grey_frame(grey)] * 2)
    assert cli.main(["data", str(tmp_path / "a\nb")]) == 0
    assert capsys.readouterr().out.split() == [r"a\nb", "2", "stills"]
    truth = tmp_path / "a\nb" / "masks"
    for method in ("c\x1bd", "e"):
        write_frames(tmp_path / "methods" / method, [grey_frame(255)] * 2)
    assert cli.main(["evaluate", str(tmp_path / "methods"), f"x\ny={truth}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in lines)
    assert lines[1].split()[:2] == [r"x\ny", r"c\x1bd"]


def test_wrong_usage_with_control_characters_is_escaped(capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "x", "-o", "y", "--absent\x1b[31m\nsecond"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith(r"--absent\x1b[31m\nsecond") and all(line.isprintable() for line in lines)


def test_the_log_reaches_the_user_until_the_last_command_of_all_threads_ends(capsys, monkeypatch):
    """Also where the program has configured logging, which switches off loggers that it does not know."""
    monkeypatch.setattr(Verbosity, "quiet", False)
    log = logging.getLogger("pdb_saliency.of_this_test")
    log.disabled = True
    first, second = library_on_console(), library_on_console()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    log.error("%s: broken", "a.png")
    second.__exit__(None, None, None)
    log.info("nobody asked")
    assert capsys.readouterr().err == "pdb-saliency: error: a.png: broken\n"
