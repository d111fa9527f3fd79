"""Frames out of order: what is heard, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.providers.reorder import FAR, WINDOW, Reorder


def heard(numbers: list[int]) -> list[bytes | None]:
    reorder = Reorder()
    return [reorder.put(number, bytes([number % 256])) for number in numbers]


def test_frames_in_order_wait_for_nothing() -> None:
    assert heard([1, 2, 3]) == [b"\1", b"\2", b"\3"]


def test_a_frame_that_came_early_is_heard_behind_the_one_before_it() -> None:
    assert heard([1, 3, 2, 4]) == [b"\1", None, b"\2\3", b"\4"]


def test_the_very_first_frame_may_be_overtaken_too_and_a_count_may_begin_anywhere() -> None:
    assert heard([2, 1, 3]) == [None, b"\1\2", b"\3"]
    assert heard([2, 3, 4, 5, 6]) == [None] * WINDOW + [b"\2\3\4\5\6"]
    assert heard([70, 71]) == [b"F", b"G"]


def test_a_frame_that_is_lost_is_given_up_after_a_few_others() -> None:
    numbers = [1, *range(3, 3 + WINDOW + 1)]
    assert heard(numbers) == [b"\1", *[None] * WINDOW, bytes(numbers[1:])]


def test_a_frame_that_comes_twice_or_too_late_is_not_heard_again() -> None:
    assert heard([1, 2, 2, 1, 3]) == [b"\1", b"\2", None, None, b"\3"]
    again = heard([*range(1, 8), *range(1, 8), 8])
    assert again[7:] == [*[None] * 7, b"\x08"], "however many of them"


def test_a_peer_that_counts_anew_is_heard_at_once() -> None:
    assert heard([1000, 1001, 1, 2]) == [b"\xe8", b"\xe9", b"\1", b"\2"]
    assert heard([1, 2, 2 + FAR + 1]) == [b"\1", b"\2", bytes([(3 + FAR) % 256])]


@given(st.lists(st.integers(min_value=1, max_value=5), max_size=60))
def test_whatever_the_order_nothing_is_heard_twice_and_what_is_held_is_bounded(steps: list[int]) -> None:
    """Places of frames by how far each may fall behind."""
    count = len(steps)
    order = sorted(range(1, count + 1), key=lambda number: number + steps[number - 1] + 0.5)
    out = b"".join(piece or b"" for piece in heard([0, *order]))
    assert list(out) == sorted(set(out)), "in order, each once"
    assert len(out) >= count + 1 - 2 * WINDOW, "nothing is lost that came soon enough"


@given(st.permutations(range(1, 4)))
def test_a_few_frames_in_any_order_are_all_heard_in_order(order: list[int]) -> None:
    assert b"".join(piece or b"" for piece in heard([0, *order, 4])) == bytes(range(5))
