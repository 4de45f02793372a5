"""What a walk passes over: a storage's own folders, and globs as a `.gitignore` has them."""

import pytest

from retrieval.errors import ImageSourceError
from retrieval.sources.excludes import Excludes, is_passed_over


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "Network Trash Folder"),
        *("$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "lost+found", "Temporary Items"),
        *("__MACOSX", ".git", "._a.jpg", ".Trash-1000", ".DS_Store"),
    ],
)
def test_what_a_storage_keeps_for_itself(name: str) -> None:
    assert is_passed_over(name, is_folder=True)


@pytest.mark.parametrize("name", ["eaDir", "recycle", "snapshot", "a.jpg", "lost", "#1.jpg", "@home", "$"])
def test_what_may_be_the_user_s(name: str) -> None:
    assert not is_passed_over(name, is_folder=True)


@pytest.mark.parametrize(
    "globs, left_out, kept",
    [
        (["thumbs"], ["thumbs/", "thumbs", "a/thumbs/", "a/thumbs"], ["thumbs2/", "mythumbs/"]),
        (["thumbs/"], ["thumbs/", "a/thumbs/"], ["thumbs"]),
        (["/thumbs"], ["thumbs/", "thumbs"], ["a/thumbs/"]),
        (["*.gif"], ["a.gif", "b/c.gif"], ["a.GIF", "a.gif.jpg"]),
        (["2019/raw"], ["2019/raw/", "2019/raw/a.jpg"], ["raw/", "a/2019/raw/"]),
        (["2019/*.jpg"], ["2019/a.jpg"], ["2019/b/a.jpg"]),
        (["**/raw/*.jpg"], ["raw/a.jpg", "a/b/raw/a.jpg"], ["raw/b/a.jpg"]),
        (["a/**"], ["a/b.jpg", "a/b/c.jpg"], ["b/a.jpg"]),
        (["IMG_[0-4]?.jpg"], ["IMG_05.jpg"], ["IMG_50.jpg"]),
        (["*.gif", "!keep.gif"], ["a.gif"], ["keep.gif", "b/keep.gif"]),
        (["#recycled", "é*"], ["#recycled/", "été.jpg"], ["recycled"]),
        ([], [], ["a.jpg", "a/"]),
    ],
)
def test_globs(globs: list[str], left_out: list[str], kept: list[str]) -> None:
    excludes = Excludes(globs)
    assert [key for key in left_out if not excludes(key)] == []
    assert [key for key in kept if excludes(key)] == []


def test_what_lies_in_a_folder_that_is_passed_over() -> None:
    excludes = Excludes(["raw/"])
    for key in ("@eaDir/a.jpg", "a/.b/c.jpg", "a/raw/b.jpg", "raw/a.jpg"):
        assert excludes.passes_over(key)
    for key in ("a.jpg", "a/raw.jpg"):
        assert not excludes.passes_over(key)


@pytest.mark.parametrize("glob", ["", " ", "!", "\\", "[", "/", "a\nb", "caf\udce9"])
def test_what_is_no_glob_is_refused_in_one_line(glob: str) -> None:
    with pytest.raises(ImageSourceError, match=r"--exclude .*write it as in a \.gitignore") as caught:
        Excludes(["*.gif", glob])
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
