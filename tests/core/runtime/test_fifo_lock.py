"""A lock that threads get in the order in which they ask."""

import os
import signal
import threading
import time
from itertools import pairwise

import pytest

from vlm_core.runtime.fifo_lock import FifoLock


def test_two_threads_that_take_it_again_and_again_take_turns():
    lock, order, ready = FifoLock(), [], threading.Barrier(2)

    def work(name):
        ready.wait()
        for _ in range(50):
            with lock:
                order.append(name)
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = order[2:-2]
    assert sum(a != b for a, b in pairwise(both)) > 0.9 * len(both)
    assert len(order) == 100


def test_it_excludes():
    lock, inside, most = FifoLock(), [], []

    def work():
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) == 1600


def test_it_is_free_after_an_error_inside():
    lock = FifoLock()
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), lock:
            raise ValueError("inside")


def test_a_wait_that_is_interrupted_loses_no_turn():
    lock, taken = FifoLock(), threading.Event()
    release = threading.Event()

    def hold():
        with lock:
            taken.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    signal.signal(signal.SIGINT, handler)
    release.set()
    holder.join()
    with lock:
        pass
