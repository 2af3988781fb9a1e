"""README and docs: what they name exists, commands parse, and blocks run or say that they do not."""

import argparse
import importlib.util
import pydoc
import re

import cv2
import numpy as np
import pytest

from helpers.documents import PAGES, blocks, commands, inline_code
from helpers.films import write_frames, write_video
from helpers.paths import BENCHMARKS, EXPERIMENTS, ROOT, TESTS
from pdb_saliency.cli import main
from pdb_saliency.predict.outputs import OUTPUTS

BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in ("sh", "python")]
COMMANDS = [(str(block), words) for block in BLOCKS if block.language == "sh" for words in commands(block.text)]
# Programs whose mention in the text is a command. docs/cuda.md writes `S` for the SASS report.
PROGRAMS = ("pdb-saliency", "torchrun", "pytest", "python", "pip", "S")
INLINE = [
    (page.name, words)
    for page in PAGES
    for code in inline_code(page)
    if code.split()[0] in PROGRAMS
    for words in commands(code)
]
OTHER_PROGRAMS = {"cmake", "ctest", "ruff", "clang-format", "torchrun"}
PATH = re.compile(r"(?<![\w/.-])(?:\.ci|csrc|docs|pdb_ext|python|tests)/[\w./*-]*[\w*/]")


class Parsed(Exception):
    """A command line was parsed."""


@pytest.fixture
def parse(monkeypatch, capsys):
    """Let the command line's own parser read the words, without running anything."""
    original = argparse.ArgumentParser.parse_args

    def stop(self, *arguments, **options):
        original(self, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)

    def run(words):
        with pytest.raises((Parsed, SystemExit)) as end:
            main(words)
        assert end.type is Parsed or end.value.code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"

    return run


def exists(path: str) -> bool:
    """path: from the top of the repository; `*` as in a shell, or as git has it, in the folders below as well."""
    if "*" not in path:
        return (ROOT / path).exists()
    return any(True for pattern in (path, path.replace("*", "**/*", 1)) for _ in ROOT.glob(pattern))


def check_command(words: list[str], parse) -> None:
    if words[0] == "S":
        words = ["python", "python/benchmarks/sass.py", *words[1:]]
    if "pdb-saliency" in words:  # also behind torchrun
        given = words[words.index("pdb-saliency") + 1 :]
        parse([*given, "--help"] if len(given) == 1 else given)  # A command's name alone is not a whole command.
    elif words[0] == "pytest":
        check_pytest(words[1:])
    elif words[0] == "python" and words[1].endswith(".py"):
        check_script(words[1:])
    elif words[0] == "pip":
        extras = [name for word in words for names in re.findall(r"\[(.+)\]", word) for name in names.split(",")]
        assert all(re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE) for name in extras)
    elif "/" in words[0]:
        assert exists(words[0])
    else:
        assert words[0] in OTHER_PROGRAMS or (words[0] == "python" and words[-2:] == ["-m", "pdb_saliency"]), words


def check_pytest(words: list[str]) -> None:
    files, wanted, before = [], [], ""
    for word in words:
        if before == "-k":
            wanted = re.findall(r"\w+", word.replace(" or ", " "))
        elif word.startswith("-"):
            assert word in ("-k", "-n", "--slow"), word
        elif before != "-n":
            path = word.partition("::")[0]
            assert exists(path), path
            files += [ROOT / path] if path.endswith(".py") else []
        before = word
    for name in wanted:
        assert any(re.search(rf"def test_\w*{name}", file.read_text()) for file in files), f"no test called {name}"


def check_script(words: list[str]) -> None:
    script = next(path for path in (ROOT / words[0], BENCHMARKS / words[0], EXPERIMENTS / words[0]) if path.exists())
    if script == ROOT / "setup.py":
        return
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in script.read_text() or option == "--train", f"{words[0]} has no {option}"
    if script.name == "sass.py":
        check_lines(words)


def check_lines(words: list[str]) -> None:
    """The kernels' sources contain what the SASS report looks for."""
    sources = "\n".join(path.read_text() for path in (ROOT / "csrc" / "cuda").rglob("*.*"))
    patterns = [word for before, word in zip(words, words[1:]) if before in ("--at", "--avoid", "--passes")]
    for part in (part for pattern in patterns for part in re.sub(r"=\d+$", "", pattern).split("|")):
        assert re.search(part, sources), f"no line of csrc/cuda matches {part}"
    for word in words[1:]:
        assert not word.endswith(".cu") or list((ROOT / "csrc" / "cuda").rglob(word)), word


def test_every_command_is_understood(parse):
    """The commands of the blocks, and those in the text."""
    assert len(COMMANDS) > 10 and len(INLINE) > 40
    for _, words in [*COMMANDS, *INLINE]:
        check_command(words, parse)


def test_options_in_the_text_exist(capsys):
    """Of commands, or of one of our scripts."""
    known = "\n".join(path.read_text() for folder in (BENCHMARKS, EXPERIMENTS) for path in folder.glob("*.py"))
    known += (TESTS / "conftest.py").read_text()
    for command in ("predict", "data", "train", "calibrate", "evaluate", "reproduce", "bench", "export", "info"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known += capsys.readouterr().out
    for page in PAGES:
        texts = [code for code in inline_code(page) if code.split()[0] not in PROGRAMS + tuple(OTHER_PROGRAMS)]
        options = {option for text in texts for option in re.findall(r"(?<!\S)--[a-z][\w-]+", text)}
        assert not [option for option in options if not re.search(rf"{option}\b", known)], page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page):
    text = page.read_text()
    missing = [path for path in PATH.findall(text) if not exists(path)]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert not missing + [link for link in links if not (page.parent / link).exists()]


def test_what_developing_names_in_a_file_is_there():
    """As in: a line of `KNOWN` in `python/.../published/__init__.py`."""
    named = re.findall(r"`(\w+)` in `([\w/.]+\.\w+)`", (ROOT / "docs" / "developing.md").read_text())
    assert len(named) > 10
    assert not [(name, path) for name, path in named if not re.search(rf"\b{name}\b", (ROOT / path).read_text())]


def test_every_kind_of_result_is_in_the_table():
    rows = re.findall(r"^\| `([\w-]+)`[^|]*\| `([\w./]+)` \|", (ROOT / "docs" / "video.md").read_text(), re.MULTILINE)
    assert rows == [(name, kind.files) for name, kind in OUTPUTS.items()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_exist(page):
    names = {name for code in inline_code(page) for name in re.findall(r"\bpdb_(?:ext|saliency)(?:\.\w+)+", code)}
    assert not [name for name in names if pydoc.locate(name) is None]


def test_every_block_runs_or_says_that_it_does_not():
    for block in BLOCKS:
        kind, _, reason = block.mark.partition(" ")
        assert not block.mark or (kind in ("run", "not") and reason), f"{block}: {block.mark}"
        if block.mark.startswith("run by "):
            assert block.text.strip() in (ROOT / block.mark.removeprefix("run by ")).read_text(), block


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """What the blocks find in their folder: two videos, three frames, masks, and data sets of stills and of videos."""
    folder = tmp_path_factory.mktemp("footage")
    frames = [np.full((96, 128, 3), 90, np.uint8) for _ in range(5)]
    masks = [np.zeros((96, 128), np.uint8) for _ in frames]
    for index, (frame, mask) in enumerate(zip(frames, masks)):
        cv2.circle(frame, (40 + 8 * index, 48), 20, (40, 40, 220), -1)
        cv2.circle(mask, (40 + 8 * index, 48), 20, 255, -1)
    write_video(folder / "holiday.mp4", frames)
    write_video(folder / "clip.mp4", frames)
    write_frames(folder, frames[:3], ".jpg")
    write_frames(folder / "masks", masks)
    for images, annotations in (("stills/images", "stills/masks"), ("videos/JPEGImages/a", "videos/Annotations/a")):
        write_frames(folder / images, frames, ".jpg")
        write_frames(folder / annotations, masks)
    return folder


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.mark], ids=str)
def test_blocks_run(block, footage, tmp_path, monkeypatch):
    for path in footage.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), {"__name__": "block"})
        return
    for words in commands(block.text):
        assert words[0] == "pdb-saliency", f"{block}: say why {words[0]} is not run"
        assert main([*words[1:], "--quiet"]) == 0


def test_readme_is_short_and_has_what_ci_runs():
    readme = (ROOT / "README.md").read_text().splitlines()
    assert len(readme) <= 150
    for command in re.findall(r'readme_command "([^"]+)"', (ROOT / ".ci" / "run").read_text()):
        assert command in readme


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_line_of_text_is_longer_than_the_limit(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_new_import_paths_in_the_changelog_exist():
    rows = re.findall(r"^\|.*\| (.+) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(pdb_(?:ext|saliency)[\w.]+)`", row)}
    assert len(names) > 30
    assert not [name for name in names if importlib.util.find_spec(name) is None]
