"""README and docs taken apart: their blocks of code, and what stands in `backquotes` in the text."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """mark: what a comment before the block says, "not run: ..." or "run by ..."; empty if the test is to run it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, last, opened = [], "", None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is not None and line.startswith("```"):
            found.append(Block(page, *opened[:2], "\n".join(opened[2]) + "\n", opened[3]))
            opened, last = None, ""
        elif opened is not None:
            opened[2].append(line)
        elif line.startswith("```"):
            mark = re.fullmatch(r"<!-- (.+) -->", last)
            opened = (number, line[3:], [], mark[1] if mark else "")
        elif line.strip():
            last = line
    assert opened is None, f"{page}: a block does not end"
    return found


def inline_code(page: Path) -> list[str]:
    """What stands in backquotes outside the blocks, each on one line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.replace("\\|", "|").split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell script without control structures."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word in ("&&", "|", ";"):
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found
