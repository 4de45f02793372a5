from matvit.progress import Count


def test_what_is_counted_is_told_as_a_sum() -> None:
    told: list[tuple[str, int, int | None]] = []
    count = Count(lambda *step: told.append(step), "images embedded", 5)
    count(2)
    count()
    assert told == [("images embedded", 0, 5), ("images embedded", 2, 5), ("images embedded", 3, 5)]


def test_what_was_done_before_is_told_first() -> None:
    told: list[int] = []
    count = Count(lambda what, done, total: told.append(done), "images embedded", 5, done=3)
    count()
    assert told == [3, 4]
