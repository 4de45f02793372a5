"""Files whose publishers tell no checksum: the SHA-256 of what came first is what must come ever after.

It is kept in the user's cache, a line for each URL; whoever wants a file that was published anew removes its
line there.
"""

import json
from pathlib import Path

from matvit.errors import DownloadError
from matvit.files.atomic import write_text
from matvit.files.cache import cache_dir
from matvit.files.lock import exclusive


def require_same(url: str, sha256: str, file: Path) -> None:
    """Remember the SHA-256 of the file at a URL, or hold it against the one that was remembered.

    Args:
        url: Where it came from.
        sha256: In hexadecimal.
        file: Where it lies.

    Raises:
        DownloadError: It is another file than the first one, or what was remembered is damaged.
    """
    record = cache_dir() / "downloads.json"
    with exclusive(record, patience_s=-1):
        seen = _read(record)
        if seen.setdefault(url, sha256) != sha256:
            raise DownloadError(
                f"{file} from {url} is not the file that was there first: its SHA-256 is {sha256} and was "
                f"{seen[url]}. If you trust it, remove the line of this URL from {record}; else remove {file}"
            )
        write_text(record, json.dumps(seen, indent=0, sort_keys=True) + "\n")


def _read(record: Path) -> dict[str, str]:
    try:
        seen = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        seen = None
    if not isinstance(seen, dict) or not all(isinstance(each, str) for each in seen.values()):
        raise DownloadError(
            f"{record}, which tells what was downloaded before, is damaged: mend or remove it"
        )
    return seen
