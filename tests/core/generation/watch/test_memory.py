"""Memory does not grow with the number of frames."""

import gc
import mmap

import pytest
from watch_cases import LLAVA, frames

from vlm_core.generation.generate import Session
from vlm_core.generation.watch.kept_states import Keep
from vlm_core.runtime.peak_rss import STATUS, current_rss

KEEP = Keep(every=10, last=5, older=5)


def grown(model, warm, count):
    """Bytes of memory that reading `count` frames takes after `warm` frames, and the watcher."""
    images = [pixels for _, pixels in frames(16)]
    watcher, before = Session(model).watch([], LLAVA, keep=KEEP), 0
    for i in range(warm + count):
        if i == warm:
            gc.collect()
            before = current_rss()
        watcher.append(i / 25, images[i % 16])
    gc.collect()
    return current_rss() - before, watcher


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "count",
    [
        1000,
        pytest.param(20_000, marks=pytest.mark.xslow),
        pytest.param(100_000, marks=pytest.mark.xslow),
    ],
)
def test_memory_is_constant(tiny_model, one_thread, count):
    """A frame's state has 1.8 kB, and its pixels 12 kB: neither is left behind."""
    growth, watcher = grown(tiny_model, 500, count)
    assert growth < 2**20
    assert watcher.frames == count + 500
    assert len(watcher.kept.times) <= 10


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="memory is read from /proc")
def test_a_frame_that_is_left_behind_would_be_found(tiny_model, one_thread, monkeypatch):
    """The control of the test above: a page of memory of each frame stays, outside of the heap, which may have room."""
    left, append = [], Session.append_embeds

    def leaking(self, x):
        append(self, x)
        left.append(mmap.mmap(-1, mmap.PAGESIZE))
        left[-1].write(b"x")

    monkeypatch.setattr(Session, "append_embeds", leaking)
    assert grown(tiny_model, 500, 1000)[0] > 2**20
