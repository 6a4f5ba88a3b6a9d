"""A process that makes no progress is told from one that is busy or idle."""

from vlm_serve.engine.watchdog import Watchdog


def test_silence_is_no_progress():
    watchdog = Watchdog()
    watchdog.elapse(3)
    watchdog.elapse(4)
    assert watchdog.stalled == 7
    watchdog.report()
    assert watchdog.stalled == 0


def test_a_step_that_does_not_end_is_no_progress_although_messages_come():
    watchdog = Watchdog()
    for _ in range(5):
        watchdog.report((4, 7))
        watchdog.elapse(1)
    assert watchdog.stalled == 5
    watchdog.report((4, 8))
    assert watchdog.stalled == 0


def test_steps_that_end_are_progress_however_long_they_take_together():
    watchdog = Watchdog()
    for step in range(1, 101, 2):
        watchdog.report((0, step))
        watchdog.elapse(1)
        assert watchdog.stalled == 1


def test_an_idle_process_makes_progress():
    watchdog = Watchdog()
    for _ in range(100):
        watchdog.report((4, 8))
        watchdog.elapse(0.5)
        assert watchdog.stalled == 0.5


def test_one_thread_hides_no_other():
    watchdog = Watchdog()
    for step in range(1, 21):
        watchdog.report((3, step))
        watchdog.elapse(1)
    assert watchdog.stalled == 20
