"""Video files to frames: containers by signature, sampled times, exact frames by seeking; nothing else is opened."""

from vlm_core.io.video.decode import SampledVideo, every_frame, first_frame, sample_video, upright
from vlm_core.io.video.header import VideoHeader, frame_count, read_header

__all__ = [
    "SampledVideo",
    "VideoHeader",
    "every_frame",
    "first_frame",
    "frame_count",
    "read_header",
    "sample_video",
    "upright",
]
