"""Dates and times as they are said; "today" is Friday, the 20th of November 2026."""

from __future__ import annotations

from datetime import date, time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.scripted.dates import read_when, say_date, say_time

TODAY = date(2026, 11, 20)


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("today", date(2026, 11, 20)),
        ("Tomorrow, please.", date(2026, 11, 21)),
        ("To-morrow", date(2026, 11, 21)),
        ("the day after tomorrow", date(2026, 11, 22)),
        ("Tuesday", date(2026, 11, 24)),
        ("Friday", date(2026, 11, 27)),
        ("next Tuesday", date(2026, 11, 24)),
        ("next Friday", date(2026, 11, 27)),
        ("Monday of next week", date(2026, 11, 23)),
        ("in three days", date(2026, 11, 23)),
        ("in a week", date(2026, 11, 27)),
        ("the third of May", date(2027, 5, 3)),
        ("May 3rd", date(2027, 5, 3)),
        ("the twenty-first of December", date(2026, 12, 21)),
        ("November 24", date(2026, 11, 24)),
        ("on the 3rd", date(2026, 12, 3)),
        ("the thirty-first", date(2026, 12, 31)),
    ],
)
def test_a_spoken_day_is_found(said: str, day: date) -> None:
    assert read_when(said, TODAY).day == day


def test_next_weekday_means_next_week_and_not_tomorrow() -> None:
    monday = date(2026, 11, 23)
    assert read_when("next Tuesday", monday).day == date(2026, 12, 1)
    assert read_when("Tuesday", monday).day == date(2026, 11, 24)


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ("ten thirty", time(10, 30)),
        ("10:30", time(10, 30)),
        ("at 1030", time(10, 30)),
        ("half past nine", time(9, 30)),
        ("a quarter to four", time(15, 45)),
        ("quarter past eleven", time(11, 15)),
        ("five past three", time(15, 5)),
        ("noon", time(12, 0)),
        ("3 p.m.", time(15, 0)),
        ("three in the afternoon", time(15, 0)),
        ("eight o'clock in the morning", time(8, 0)),
        ("twelve thirty", time(12, 30)),
        ("14:30", time(14, 30)),
        ("seven in the evening", time(19, 0)),
    ],
)
def test_a_spoken_time_is_found(said: str, at: time) -> None:
    assert read_when(said, TODAY).at == at


def test_day_and_time_in_one_breath_do_not_mix() -> None:
    """The 24 of the date is no hour."""
    when = read_when("November 24th at ten thirty, please", TODAY)
    assert (when.day, when.at) == (date(2026, 11, 24), time(10, 30))
    assert read_when("May the third", TODAY).at is None


def test_a_lone_number_is_an_hour_only_when_an_hour_was_asked_for() -> None:
    assert read_when("three", TODAY).at is None
    assert read_when("three", TODAY, bare_hour=True).at == time(15, 0)


@pytest.mark.parametrize("said", ["", "I do not know", "the thirty-first of April", "yes please", "25:70", "at 99"])
def test_what_is_no_day_and_no_time_is_neither(said: str) -> None:
    when = read_when(said, TODAY, bare_hour=True)
    assert (when.day, when.at) == (None, None)


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="0123456789 :.thsndra pmofaye'next", max_size=30))
def test_nothing_a_caller_says_raises(said: str) -> None:
    when = read_when(said, TODAY, bare_hour=True)
    assert when.day is None or when.day >= TODAY


@settings(max_examples=40, deadline=None)
@given(st.dates(TODAY, date(2027, 11, 19)), st.times())
def test_what_the_agent_says_back_means_what_was_meant(day: date, at: time) -> None:
    at = at.replace(second=0, microsecond=0)
    when = read_when(f"{say_date(day)} at {say_time(at)}", TODAY)
    assert when.at == at
    assert when.day == day or day.weekday() == TODAY.weekday()


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("I can't do Monday, Tuesday is better", date(2026, 11, 24)),
        ("not Tuesday, Wednesday", date(2026, 11, 25)),
        ("I don't want it on Monday", None),
        ("Friday instead of tomorrow", date(2026, 11, 27)),
        ("why not Monday", date(2026, 11, 23)),
    ],
)
def test_a_day_that_is_ruled_out_is_not_taken(said: str, day: date | None) -> None:
    assert read_when(said, date(2026, 11, 20)).day == day
