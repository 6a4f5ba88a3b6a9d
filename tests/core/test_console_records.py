"""Log records of a command on its console: which stream, which level, and from within a signal handler."""

import io
import logging
import sys

import pytest

from vlm_core.cli.output import console_records


def test_notices_on_stdout_and_warnings_on_stderr(capsys):
    log, other = logging.getLogger("vlm_pkg.room"), logging.getLogger("another.library")
    with console_records("vlm_pkg"), console_records("vlm_pkg"):
        log.info("resuming %s at step %d", "align", 3)
        log.warning("a line is left out")
        log.debug("nothing to see")
        other.info("not ours")
    log.info("after the command")
    assert capsys.readouterr() == ("resuming align at step 3\n", "a line is left out\n")
    assert logging.getLogger("vlm_pkg").level == logging.NOTSET


def test_a_record_from_a_signal_handler_that_interrupted_a_write(monkeypatch, capfd):
    class Busy(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Busy())
    with console_records("vlm_pkg"):
        logging.getLogger("vlm_pkg").error("stopping")
    assert capfd.readouterr().err == "stopping\n"


def test_a_closed_stderr_ends_nothing_but_a_closed_stdout_does(monkeypatch):
    """As `| head` closes it: the command then ends with 141."""

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(sys, "stdout", Closed())
    with console_records("vlm_pkg"):
        logging.getLogger("vlm_pkg").warning("nobody reads this")
        with pytest.raises(BrokenPipeError):
            logging.getLogger("vlm_pkg").info("nobody reads this")
