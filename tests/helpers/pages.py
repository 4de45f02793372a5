"""The README and the pages of docs/, and what stands in their blocks of code."""

import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt().parse(page.read_text(encoding="utf-8"))


def languages(page: Path) -> set[str]:
    """Those of its blocks; an indented block has none."""
    return {token.info.strip() for token in _tokens(page) if token.type in ("fence", "code_block")}


def blocks(page: Path, language: str) -> list[str]:
    """Its blocks of code in a language; the commands are what is in none."""
    wanted = [token for token in _tokens(page) if token.type in ("fence", "code_block")]
    return [token.content for token in wanted if token.info.strip() == language]


def commands(page: Path) -> Iterator[str]:
    """Its command lines: without comments, continued ones joined, and those joined by && apart."""
    for block in blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.sub(r"\s+#.*$", "", line).split("&&"):
                if command.strip():
                    yield " ".join(command.split())


def words_in_text(page: Path) -> list[str]:
    """What stands in its running text between backticks."""
    inline = [token for token in _tokens(page) if token.type == "inline"]
    return [code.content for token in inline for code in token.children or [] if code.type == "code_inline"]
