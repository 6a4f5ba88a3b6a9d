"""Kinds of video files by their first bytes."""

from __future__ import annotations

from types import MappingProxyType

HEAD = 1024
"""Bytes of a file that its kind is told from."""
CONTAINERS = MappingProxyType(
    {"MP4": "mov", "Matroska": "matroska", "AVI": "avi", "MPEG-TS": "mpegts", "MPEG-PS": "mpeg"}
)
"""Kinds that are read, and FFmpeg's demuxer of each. MP4 includes MOV, M4V and 3GP; Matroska includes WebM."""
_OLD_MOV = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_IMAGE_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_OTHERS = {
    b"FLV": "FLV",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV or ASF",
    b"OggS": "Ogg",
    b".RMF": "RealMedia",
    b"#EXTM3U": "a playlist (HLS)",
    b"ffconcat": "a playlist of FFmpeg",
    b"<?xml": "XML, such as a DASH playlist,",
    b"<MPD": "a DASH playlist",
    b"[playlist]": "a playlist",
    b"v=0": "a session description (SDP)",
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"fLaC": "FLAC",
    b"\0\0\0\1": "H.264 or H.265 without a container",
    b"DKIF": "IVF",
    b"YUV4MPEG2": "uncompressed Y4M",
    b"PK\3\4": "zip",
    b"\x1f\x8b": "gzip",
}


def container_of(head: bytes) -> str | None:
    """The kind of a video file with these first `HEAD` bytes, one of `CONTAINERS`; None if it is no such file."""
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _IMAGE_BRANDS else "MP4"
    if head[4:8] in _OLD_MOV:
        return "MP4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "Matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if head.startswith(b"\0\0\1\xba"):
        return "MPEG-PS"
    for start, size in ((0, 188), (4, 192)):  # the second has a time before each packet: M2TS
        if len(head) > start + 2 * size and all(head[start + size * i] == 0x47 for i in range(3)):
            return "MPEG-TS"
    return None


def other_kind(head: bytes) -> str | None:
    """The name of a known kind of file that is no video that is read; None if the kind is unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "WAV"
    return next((name for signature, name in _OTHERS.items() if head.startswith(signature)), None)
