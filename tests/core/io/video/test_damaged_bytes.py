"""Videos with changed bytes: frames, or a `BadSample`; never another error."""

import random

import numpy as np
import pytest
from videos import video

from vlm_core.errors import BadSample
from vlm_core.io.video.decode import sample_video
from vlm_core.io.video.sources import Sampling, StoredImage

KINDS = {"mp4": {}, "webm": {"codec": "libvpx"}, "avi": {}, "mpegts": {}, "mov": {}, "mpeg": {"rate": 25}}
HOSTILE = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1")


def changed(data, rng):
    """With some bytes replaced, removed or inserted, mostly in the header."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 1500))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + 4] = rng.choice(HOSTILE)
            case 2:
                del data[at : at + rng.randrange(1, 50)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(kind):
    rng, data = random.Random(0), video(kind, **{"frames": 15, "gop": 5, "size": (32, 32), **KINDS[kind]})
    outcomes, messages = set(), []
    for _ in range(120):
        damaged = changed(data, rng)
        sampling = rng.choice([Sampling(frames=3), Sampling(fps=2.0, max_frames=5)])
        try:
            frames = sample_video(
                StoredImage("x", lambda damaged=damaged: damaged), sampling, np.asarray
            ).frames
            assert 1 <= len(frames) <= 5
            outcomes.add("frames")
        except BadSample as error:
            outcomes.add(error.reason)
            messages.append(str(error))
    assert len(outcomes) > 1
    assert all(message.startswith("x: ") for message in messages)
