"""Work beside the main thread: one piece at a time, nothing lost."""

import threading

import pytest

from synth_job.background import InBackground


def test_the_block_goes_on_meanwhile_and_ends_with_the_last_piece() -> None:
    done: list[int] = []
    gate = threading.Event()

    def piece(number: int) -> None:
        assert gate.wait(10)
        done.append(number)

    with InBackground() as background:
        background.start(piece, 1)
        assert done == [], "the block is ahead of it"
        gate.set()
        background.start(piece, 2)
        assert done[0] == 1, "a second piece waits for the first"
    assert done == [1, 2]


def test_an_error_comes_out_at_the_next_start_or_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), InBackground() as background:
        background.start(fail)
        background.start(lambda: None)
    with pytest.raises(OSError, match="disk full"), InBackground() as background:
        background.start(fail)


def test_an_error_of_the_block_comes_first_and_work_under_way_is_finished() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), InBackground() as background:
        background.start(done.append, 1)
        raise KeyboardInterrupt
    assert done == [1]
