"""Small files that would cost a decoder minutes are refused at once, ordinary ones are read at little cost."""

import json
import subprocess
import sys
import time
import tracemalloc
import warnings
from random import Random

import costly_images as made
import pytest
from PIL import Image, ImageOps

from vlm_core.errors import BadSample
from vlm_core.io import images
from vlm_core.io.images import StoredImage, decode_image, size_of, to_rgb, upright_size

REFUSED = {name: ("too-costly", make) for name, make in made.COSTLY.items()}
REFUSED |= {name: ("variant", make) for name, make in made.VARIANTS.items()}
CHUNKS = made.chunk(b"abCd") * 999


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_costs_too_much_is_refused_before_it_is_decoded(name):
    reason, make = REFUSED[name]
    data = make()
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises(BadSample, match=r"^shard 3: ") as caught:
        decode_image(data, "shard 3")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (caught.value.reason, "PNG or JPEG" in str(caught.value)) == (reason, True), caught.value
    assert len(str(caught.value)) < 250
    assert time.process_time() - began < 10, "tracemalloc takes most of it"
    assert peak < 50e6


@pytest.mark.parametrize("name", made.OTHERS)
def test_other_formats_are_named(name):
    with pytest.raises(BadSample, match="not an image of a kind that is read: ") as caught:
        decode_image(made.OTHERS[name], "a.jpg")
    assert caught.value.reason == "not-an-image"
    assert f"{name} is none of AVIF, BMP, GIF" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        made.scans(100, (1000, 800)),
        made.scans(8, (4000, 3000)),
        made.jpeg(b"\xff" * 100),
        made.tiff(),
        made.jpeg(made.segment(0xE1, made.ORIENTED % 6) + made.segment(0xED, bytes(60000)) * 100),
        made.tiff(rows=1, offsets=[8 + 64 * i for i in range(64)], counts=[64] * 64),
        made.tiff(tile_width=256, tile_height=256, tile_offsets=8, tile_counts=65536, pixels=bytes(65536)),
        made.gif(b"!\xfe\5abcde\0" * 100),
        made.webp(b"abcd\0\0\0\0" * 100),
        made.png(CHUNKS),
        b"P5 # a comment\n64\n64 255\n" + bytes(64 * 64),
        b"P4\n64 64\n" + bytes(8 * 64),
        made.bmp(0),
        b"P6\n#a\n#b\n 64\t64 255\n" + bytes(3 * 64 * 64),
        made.png(CHUNKS, depth=16, body=made.zlib.compress(bytes(136))),
    ],
)
def test_what_is_within_the_limits_is_read(data):
    assert decode_image(data, "x").mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "I;16", "RGB"])
def test_strips_of_an_image_become_what_the_whole_does(monkeypatch, mode):
    noise = Image.effect_noise((33, 20), 90)
    image = Image.merge("RGBA", [noise, noise.rotate(90), noise.rotate(180), noise.rotate(270)])
    image = noise.convert("I;16") if mode == "I;16" else image.convert(mode)
    if mode in ("P", "RGB"):
        image.info["transparency"] = 3 if mode == "P" else image.getpixel((0, 0))
    whole = to_rgb(image)
    monkeypatch.setattr(images, "_STRIP", 100)
    assert to_rgb(image).tobytes() == whole.tobytes()


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_as_pillow_does(value, form):
    noise = Image.effect_noise((9, 5), 90).convert("RGB" if form == "JPEG" else "RGBA")
    exif = noise.getexif()
    exif[0x0112] = value
    data = made.encoded(noise, form, exif=exif.tobytes())
    with Image.open(made.io.BytesIO(data)) as image:
        wanted = to_rgb(ImageOps.exif_transpose(image))
    assert (decode_image(data, "x").size, decode_image(data, "x").tobytes()) == (
        wanted.size,
        wanted.tobytes(),
    )


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_upright_size_is_known_without_decoding(value, form, monkeypatch):
    noise = Image.effect_noise((90, 50), 90).convert("RGB")
    exif = noise.getexif()
    exif[0x0112] = value
    data = made.encoded(noise, form, exif=exif.tobytes())
    expected = decode_image(data, "x").size
    monkeypatch.setattr(images, "to_rgb", lambda image: pytest.fail("was decoded"))
    assert size_of(data, "x") == expected


def test_the_upright_size_of_a_png_whose_exif_follows_its_pixels():
    noise = Image.effect_noise((90, 50), 90).convert("RGB")
    exif = noise.getexif()
    exif[0x0112] = 6
    early, plain = made.encoded(noise, "PNG", exif=exif.tobytes()), made.encoded(noise, "PNG")
    at = early.index(b"eXIf") - 4
    chunk = early[at : at + 12 + int.from_bytes(early[at : at + 4], "big")]
    end = plain.index(b"IEND") - 4
    late = plain[:end] + chunk + plain[end:]
    assert size_of(late, "x") == decode_image(late, "x").size == (50, 90)
    assert size_of(plain, "x") == (90, 50)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("value", [1, 6, 8])
def test_the_size_of_a_large_jpeg_is_read_from_its_beginning(tmp_path, monkeypatch, value, progressive):
    noise = Image.effect_noise((900, 500), 90).convert("RGB")
    exif = noise.getexif()
    exif[0x0112] = value
    noise.save(path := tmp_path / "x.jpg", exif=exif, quality=95, progressive=progressive)
    assert path.stat().st_size > 2 * images.START
    expected = upright_size(path)
    monkeypatch.setattr(images, "image_bytes", lambda source: pytest.fail("the whole file was read"))
    assert upright_size(path, whole=False) == expected


def test_other_files_are_read_whole_for_their_size(tmp_path):
    """Small ones, other formats, and a JPEG file with more metadata before its sizes."""
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    late = made.encoded(noise, "JPEG", quality=95)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    files = {
        "small.jpg": made.encoded(Image.new("RGB", (90, 50)), "JPEG"),
        "large.png": made.encoded(noise, "PNG"),
        "late.jpg": late[:2] + 2 * comment + late[2:],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert upright_size(tmp_path / name, whole=False) == size_of(data, name)
    stored = StoredImage("in a shard", lambda: files["late.jpg"])
    assert upright_size(stored, whole=False) == (400, 300)
    (tmp_path / "text.jpg").write_text("no image" * 9999)
    for path in (tmp_path / "text.jpg", tmp_path / "none.jpg"):
        with pytest.raises(BadSample, match=path.name):
            upright_size(path, whole=False)


def mutated(random, data):
    """Bytes flipped, cut, doubled, or numbers of the header set to extremes."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if not data:
            break
        at = random.randrange(len(data) if random.random() < 0.5 else min(64, len(data)))
        match random.randrange(5):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                del data[at : at + random.choice((1, 9, 99, 10**6))]
            case 2:
                data[at:at] = data[at : at + random.randrange(200)]
            case 3:
                data[at : at + 4] = random.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\1\0\0\0")
                )
            case 4:
                data[at:at] = random.randbytes(random.randrange(50))
    return bytes(data)


def seeds():
    noise = Image.effect_noise((40, 30), 60)
    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        yield made.encoded(noise.convert("RGB"), form)
    yield made.encoded(noise.convert("RGB"), "AVIF", speed=10)
    yield made.encoded(noise.convert("LA"), "PNG", exif=made.ORIENTED % 6)
    yield made.encoded(noise, "JPEG", progressive=True, exif=made.ORIENTED % 8)
    yield made.encoded(
        noise.convert("P"), "GIF", save_all=True, append_images=[noise.rotate(90).convert("P")]
    )
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4", "packbits"):
        yield made.encoded(
            noise.convert("1" if compression == "group4" else "RGB"), "TIFF", compression=compression
        )
    yield made.tiff(tile_width=32, tile_height=32, tile_offsets=[8, 1032, 2056, 3080], tile_counts=[1024] * 4)
    yield made.webp(b"abcd\0\0\0\0")


def test_mutated_files_give_a_picture_or_a_bad_sample():
    """Nothing else is raised, nothing is warned of, and none takes long."""
    random, outcomes, slowest = Random(0), [], 0.0
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for data in seeds():
            assert decode_image(data, "x").mode == "RGB"
            for _ in range(60):
                began = time.process_time()
                try:
                    outcomes.append(decode_image(mutated(random, data), "x").mode)
                except BadSample as error:
                    outcomes.append(error.reason)
                slowest = max(slowest, time.process_time() - began)
    assert not leaked
    assert {"RGB", "damaged", "not-an-image"} <= set(outcomes)
    assert slowest < 2


LARGE = """
import json, sys, time
from pathlib import Path
from PIL import Image
from vlm_core.io.images import load_image
def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
Image.init()
before, began = held("VmRSS"), time.process_time()
size = load_image(sys.argv[1]).size
print(json.dumps([size, time.process_time() - began, held("VmHWM") - before]))
"""


def large(name):
    rows = bytes(8000 * 8 + 1) * 64
    grow = made.zlib.compressobj(1)
    deep = b"".join(grow.compress(rows) for _ in range(125)) + grow.flush()
    return {
        "RGBA PNG of 16 bits": lambda: made.png(width=8000, height=8000, depth=16, colour=6, body=deep),
        "progressive JPEG": lambda: made.encoded(
            Image.effect_noise((6000, 4000), 60).convert("RGB"), "JPEG", progressive=True, quality=50
        ),
        "CMYK on its side": lambda: made.encoded(
            Image.new("CMYK", (8000, 8000)), "JPEG", exif=made.ORIENTED % 6
        ),
        "scans": lambda: made.scans(20),
        "WebP": lambda: made.encoded(made.grey("RGB", (6000, 4000)), "WEBP", method=0),
        "AVIF": lambda: made.encoded(made.grey("RGBA", (4000, 4000)), "AVIF", speed=10),
    }[name]()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
@pytest.mark.parametrize(
    "name", ["RGBA PNG of 16 bits", "progressive JPEG", "CMYK on its side", "scans", "WebP", "AVIF"]
)
def test_what_the_largest_images_cost(tmp_path, name, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.MAXBLOCK", 2**27)
    (tmp_path / "image").write_bytes(large(name))
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "image")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (width, height), seconds, memory = json.loads(done.stdout)
    assert width * height in (64e6, 24e6, 16e6)
    assert seconds < 4, "2 on a machine that isn't shared"
    assert memory < 650, "MiB"
