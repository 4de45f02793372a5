"""Packed archives: they are not read, for a few bytes could unpack without end, but what to do is said."""

_REMEDIES = {
    (".gz", ".tgz"): "run gunzip on it",
    (".bz2", ".tbz2", ".tbz"): "run bunzip2 on it",
    (".xz", ".txz", ".lzma"): "run unxz on it",
    (".zst", ".tzst"): "run unzstd on it",
    (".zip",): "run unzip on it and name the folder",
    (".7z", ".rar", ".lz4", ".z"): "unpack it and name what comes out",
}
_TARS = (".tgz", ".tbz2", ".tbz", ".txz", ".tzst")


def why_packed(name: str) -> str | None:
    """Why a file of this name is not read and what to do, where it is a packed archive; else None."""
    for endings, remedy in _REMEDIES.items():
        if name.lower().endswith(endings):
            return f"packed archives are not read; {remedy}"
    return None


def is_packed_tar(name: str) -> bool:
    """Whether a file of this name is a packed archive that was a shard before."""
    return why_packed(name) is not None and (".tar." in name.lower() or name.lower().endswith(_TARS))
