"""The ring of the latest steps."""

import numpy as np

from nemo_rl_efficientrollout.engine.timeline import COLUMNS, Timeline
from nemo_rl_efficientrollout.gate import Load, Step


def record(timeline: Timeline, numbers: range) -> None:
    """Steps of a second each that ended at these seconds."""
    for number in numbers:
        timeline.record(Step(Load(3, 50.0), 2, 4, 1.0, True), float(number), drafted=6, accepted=number)


def test_what_is_too_old_is_lost_and_the_rest_is_in_order() -> None:
    timeline = Timeline(steps=4)
    record(timeline, range(1, 12))
    taken = timeline.take()
    assert taken.keys() == set(COLUMNS.names or ())
    assert taken["accepted"] == [8, 9, 10, 11]
    assert taken["seconds"] == [1.0, 2.0, 3.0, 4.0]  # since the first of them began
    assert (taken["active"], taken["draft_length"], taken["asked"]) == ([3] * 4, [2] * 4, [4] * 4)
    assert taken["decode_only"] == [True] * 4
    assert all(type(value) in (int, float, bool) for column in taken.values() for value in column)


def test_each_step_is_told_once() -> None:
    timeline = Timeline(steps=4)
    record(timeline, range(1, 4))
    assert timeline.take()["accepted"] == [1, 2, 3]
    assert timeline.take()["accepted"] == []
    record(timeline, range(7, 9))
    assert timeline.take()["seconds"] == [1.0, 2.0]


def test_its_memory_is_what_it_was_at_first() -> None:
    timeline = Timeline()
    rows = next(value for value in vars(timeline).values() if isinstance(value, np.ndarray))
    record(timeline, range(1, 5))
    assert next(value for value in vars(timeline).values() if isinstance(value, np.ndarray)) is rows
    assert rows.nbytes < 4 << 20
