"""Processes of a run agree on one message and one exit code, over restarts by the launcher too."""

import pytest

from vlm_train.distributed import exit_message
from vlm_train.distributed.exit_message import RESUMABLE


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """`attempt(n)`: this process belongs to attempt `n` of its launcher."""

    def enter(number):
        folder = tmp_path / f"attempt_{number}"
        (folder / "0").mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "0" / "error.json"))

    return enter


def test_the_first_process_speaks_and_its_code_is_everybodys(attempt, capsys):
    attempt(0)
    assert [exit_message.report("a row is bad", 2), exit_message.report("stopped by SIGTERM", RESUMABLE)] == [
        2,
        2,
    ]
    assert capsys.readouterr().err == "vlm-train: a row is bad\n"


@pytest.mark.parametrize("final", [2, RESUMABLE])
def test_what_a_restart_cannot_mend_is_the_end_of_every_later_attempt(attempt, capsys, final):
    """The launcher's SIGTERM may meet a rank of the next attempt before that rank knows that all is over."""
    attempt(0)
    exit_message.report("the end", final)
    attempt(1)
    assert exit_message.report("stopped by SIGTERM; rerun the same command to resume", RESUMABLE) == final
    assert exit_message.recorded_code() is None
    assert capsys.readouterr().err == "vlm-train: the end\n"


def test_a_failure_that_a_restart_may_mend_leaves_the_next_attempt_its_own_end(attempt):
    attempt(0)
    exit_message.report("rank 0: RuntimeError", 70)
    attempt(1)
    assert exit_message.final_code() is None
    assert exit_message.report("a row is bad", 2) == 2
