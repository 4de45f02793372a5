"""What is in benchmarks/ belongs to the site, too: results, figures, and the commands that made them.

The pages link to them as files of the repository, `../benchmarks/...`, so that the links work there as well.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SHOWN = {".md", ".txt", ".csv", ".png"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them to the site's files."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / "benchmarks").rglob("*")):
        if path.suffix in _SHOWN:
            name = path.relative_to(root).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn links to files of the repository into links within the site."""
    return markdown.replace("](../benchmarks/", "](benchmarks/")
