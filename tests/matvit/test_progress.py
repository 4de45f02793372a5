from matvit.progress import Count


def test_what_is_counted_is_told_as_a_sum() -> None:
    told: list[tuple[str, int, int | None]] = []
    count = Count(lambda *step: told.append(step), "images embedded", 5)
    count(2)
    count()
    assert told == [("images embedded", 2, 5), ("images embedded", 3, 5)]
