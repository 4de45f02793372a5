"""The images among the members of a shard, each with the texts that go with it.

An image is what is named or begins like one. Its key is its stem: the name up to the last dot, for names of
photographs are full of dots. Where a stem has several images, jpg, jpeg, png and webp come first, in this
order, and all but the first are called by their whole name: `a` and `a.png`.

A text goes with the images of its own stem, and with those whose stem goes on after it with a dot and have no
text of their own: webdataset writes `s0.left.jpg`, `s0.right.jpg` and `s0.cls`. Members belong together as
long as what is before the first dot of their names stays the same: only so much of a shard is held in memory.
"""

# webdataset's own `group_by_keys` splits every name at its first dot: nine screenshots of one hour are to it
# one sample without an image.

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from retrieval.sources.formats import is_image_name, looks_like_image
from retrieval.sources.sample import Failure, is_utf8, printable
from retrieval.sources.tars import Gap, Member

TEXTS = ("cls", "txt", "json")
_FIRST = ("jpg", "jpeg", "png", "webp")
_MAX_BEGINNINGS = 16  # a hostile name has thousands of dots
_ORDER = (
    "name every sample differently and pack the shard with tar --sort=name, so that its members lie together"
)
_LATE = f"its sample came before: {_ORDER}"


@dataclass(frozen=True)
class ShardImage:
    """An image of a shard.

    Attributes:
        key: Unique in the shard.
        member: The image.
        texts: What goes with it, by suffix.
    """

    key: str
    member: Member
    texts: Mapping[str, Member]


def shard_images(shard: str, members: Iterable[Member | Gap]) -> Iterator[ShardImage | Failure]:
    """The images of a shard, and a failure for every one that cannot be told, for every gap and stray text.

    Args:
        shard: File name of the shard, which keys begin with.
        members: In order.
    """
    for found in _found(members):
        if isinstance(found, Gap):
            yield Failure(shard, found.reason)
            continue
        key = f"{shard}:{found.key}"
        if isinstance(found, Failure):
            yield Failure(printable(key), found.reason)
        elif is_utf8(key):
            yield replace(found, key=key)
        else:
            yield Failure(printable(key), "member name is not UTF-8")


def _found(members: Iterable[Member | Gap]) -> Iterator[ShardImage | Failure | Gap]:
    before, group = _Before(), _Group()
    for member in members:
        if isinstance(member, Gap):
            yield member
            group.is_whole &= not member.hides
            yield from _finish(group, before)
            group = _Group(is_whole=not member.hides)
            continue
        is_image = _is_image(member)
        folder, slash, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        # Hidden files are no samples, and suffixes in underscores are webdataset's own columns.
        if not is_image and (not stem or not dot or suffix.startswith("__")):
            continue
        sample = f"{folder}{slash}{stem}"
        if group.sample not in (None, sample):
            yield from _finish(group, before)
            group = _Group()
        group.sample = sample
        group.add(member, is_image=is_image)
    yield from _finish(group, before)


@dataclass
class _Group:
    """Neighbours that may belong together.

    Attributes:
        sample: Their names up to the first dot.
        is_whole: Whether nothing of it can have been lost.
        images: In order.
        texts: By stem and suffix.
        others: Stems of what is no image, as a set in order.
    """

    sample: str | None = None
    is_whole: bool = True
    images: list[Member] = field(default_factory=list)
    texts: dict[tuple[str, str], Member] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)

    def add(self, member: Member, *, is_image: bool) -> None:
        """Take one more."""
        stem_and_suffix = member.stem, member.suffix
        if is_image:
            self.images.append(member)
            return
        self.others[member.stem] = None
        if member.suffix in TEXTS:
            problem = f"comes twice: {_ORDER}" if stem_and_suffix in self.texts else member.problem
            self.texts[stem_and_suffix] = replace(member, problem=problem)

    def texts_of(self, stem: str) -> dict[str, Member]:
        """The texts of an image, by suffix: those whose stems are most like its own."""
        places = [(part, suffix) for part in reversed(_beginnings(stem)) for suffix in TEXTS]
        return {
            stem_and_suffix[1]: self.texts[stem_and_suffix]
            for stem_and_suffix in places
            if stem_and_suffix in self.texts
        }


@dataclass
class _Before:
    """What came in earlier groups, to tell whose members do not lie together.

    Attributes:
        keys: Of images.
        wanted: Stems of which a text would have gone with one of them.
        texts: Stems of texts.
    """

    keys: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)

    def has_part_of(self, image: Member) -> bool:
        """Whether others of an image's sample came before."""
        taken = image.stem in self.keys or image.name in self.keys
        return taken or not self.texts.isdisjoint(_beginnings(image.stem))


def _finish(group: _Group, before: _Before) -> Iterator[ShardImage | Failure]:
    stems = {image.stem for image in group.images}
    names = {image.name for image in group.images}
    seen: set[str] = set()
    keys: set[str] = set()
    for image in sorted(group.images, key=_rank):
        # Beside `a.jpg` and `a.png`, the stem of `a.png.jpg` is the key of another.
        key = image.name if image.stem in keys or image.stem in names else image.stem
        if image.name in seen:
            yield Failure(image.name, f"a member of this name came before: {_ORDER}")
        elif before.has_part_of(image):
            yield Failure(image.name, _LATE)
        elif not group.is_whole:
            yield Failure(key, "the shard is damaged at this sample, of which a part may be lost")
        else:
            yield ShardImage(key, image, group.texts_of(image.stem))
        seen.add(image.name)
        keys.add(key)
    for text in group.texts.values():
        if text.stem in before.wanted and (text.stem in before.keys or text.stem not in stems):
            yield Failure(text.name, _LATE)
    if group.is_whole:
        yield from (Failure(stem, "no image in sample") for stem in _strays(group, before))
    before.keys |= keys
    before.wanted |= {part for stem in stems for part in _beginnings(stem)}
    before.texts |= {text.stem for text in group.texts.values()}


def _strays(group: _Group, before: _Before) -> Iterator[str]:
    """Stems that neither an image of the group nor one before has anything to do with."""
    stems = {image.stem for image in group.images}
    wanted = {part for stem in stems for part in _beginnings(stem)}
    candidates = {text.stem for text in group.texts.values()} if stems else set(group.others)
    for stem in group.others:
        parts = _beginnings(stem)
        is_known = stem in wanted or stem in before.wanted
        is_part = not (stems.isdisjoint(parts) and before.keys.isdisjoint(parts))  # as `a.seg.npy` is of `a`
        if stem in candidates and not is_known and not is_part and candidates.isdisjoint(parts[1:]):
            yield stem


def _is_image(member: Member) -> bool:
    base = member.name.rpartition("/")[2]
    if base.startswith(".") or member.suffix in TEXTS:
        return False
    return is_image_name(base) or looks_like_image(member.head())


def _rank(image: Member) -> int:
    return _FIRST.index(image.suffix) if image.suffix in _FIRST else len(_FIRST)


def _beginnings(stem: str) -> list[str]:
    """The stem, and what of it ends before a dot of the file's name; the longest first."""
    folder, slash, base = stem.rpartition("/")
    found: list[str] = []
    while base and len(found) < _MAX_BEGINNINGS:
        found.append(f"{folder}{slash}{base}")
        base = base.rpartition(".")[0]
    return found
