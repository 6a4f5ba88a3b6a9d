"""Where images may come from, and limits that are checked before they are decoded."""

import base64
import os
import zlib
from io import BytesIO
from urllib.parse import quote

import anyio
import pytest
from PIL import Image

from vlm_serve.api.guard.addresses import is_public
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.images import check_count, fetch_image, fetch_video
from vlm_serve.api.guard.settings import ServerSettings


def png(width=4, height=3):
    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def fetched(url, fetch=fetch_image, **settings):
    return anyio.run(fetch, url, "image 2", ServerSettings(model=".", **settings))


def refusal(url, fetch=fetch_image, **settings):
    with pytest.raises(RequestError) as caught:
        fetched(url, fetch, **settings)
    error = caught.value
    assert error.status == 400
    assert error.message.startswith("image 2: ")
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert len(error.message) < 400
    return error


def test_a_data_url():
    image = fetched(data_url(png()))
    assert (image.data, image.name) == (png(), "image 2")


@pytest.mark.parametrize("kind", ["", "image/jpeg", "text/html", "image/png;charset=utf-8", "IMAGE/PNG"])
def test_the_content_decides_not_the_type(kind):
    assert fetched(data_url(png(), kind)).data == png()


def test_lines_and_percent_encoding_in_base64():
    text = base64.encodebytes(png() * 1).decode()
    assert fetched(f"data:image/png;base64,{text}").data == png()
    assert fetched(f"data:image/png;base64,{quote(text)}").data == png()
    assert fetched(f"DATA:image/png;BASE64,{text}").data == png()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/png,abc", "invalid_image_url"),
        ("data:image/png;base64", "invalid_image_url"),
        ("data:", "invalid_image_url"),
        ("data:image/png;base64,====", "invalid_base64"),
        ("data:image/png;base64,iVBOR*", "invalid_base64"),
        ("data:image/png;base64,iVB", "invalid_base64"),
        ("data:image/png;base64,iVBORw0KGgo=iVBO", "invalid_base64"),
        ("data:image/png;base64,ä", "invalid_base64"),
        ("data:image/png;base64,\ud800", "invalid_base64"),
        ("data:image/png;base64,", "invalid_image"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "invalid_image"),
        (data_url(b"GIF89a"), "invalid_image"),
        (data_url(png()[:20]), "invalid_image"),
        ("", "invalid_image_url"),
        ("cat.png", "invalid_image_url"),
        ("ftp://example.org/a.png", "invalid_image_url"),
        ("pipe:cat /etc/passwd", "invalid_image_url"),
        ("\0", "invalid_image_url"),
        ("https://example.org/a.png", "image_not_allowed"),
        ("http://example.org/a.png", "image_not_allowed"),
        ("file:///etc/passwd", "image_not_allowed"),
        ("/etc/passwd", "invalid_image_url"),
    ],
)
def test_what_is_refused_by_default(url, code):
    assert refusal(url).code == code


def test_bytes_are_counted_before_decoding(monkeypatch):
    from vlm_serve.api.guard import images

    monkeypatch.setattr(images.binascii, "a2b_base64", None)  # pyright: ignore[reportPrivateImportUsage]
    assert refusal(data_url(b"x" * 200), max_image_bytes=100).code == "image_too_large"
    assert refusal(data_url(b"x" * 5000), max_image_bytes=100).code == "image_too_large"


def test_the_largest_allowed_image():
    data = png()
    assert fetched(data_url(data), max_image_bytes=len(data)).data == data
    assert refusal(data_url(data), max_image_bytes=len(data) - 1).code == "image_too_large"


def test_pixels_are_counted_before_decoding(monkeypatch):
    allowed, larger = data_url(png(10, 10)), data_url(png(10, 11))
    monkeypatch.setattr(Image.Image, "load", None)
    assert fetched(allowed, max_image_pixels=100)
    error = refusal(larger, max_image_pixels=100)
    assert error.message == "image 2: 10×11 pixels; at most 100 are allowed."


def test_a_bomb_is_refused_by_its_header():
    bomb = bytearray(png())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert "decompression bomb" in refusal(data_url(bytes(bomb))).message
    assert "more than 200:1" in refusal(data_url(png(2000, 1))).message


def test_the_number_of_images():
    settings = ServerSettings(model=".", max_images=2)
    check_count(2, "messages", settings)
    with pytest.raises(RequestError, match="3 images and videos; at most 2 are allowed in one request"):
        check_count(3, "messages", settings)


def test_a_video_is_not_taken_for_an_image():
    assert fetched(data_url(b"any bytes", "video/mp4"), fetch_video).data == b"any bytes"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "a b.png").write_bytes(png())
    (root / "sub" / "b.png").write_bytes(png(5, 5))
    (root / "text.png").write_bytes(b"secret text")
    (root / "large.png").write_bytes(png() + b"\0" * 3000)
    (root / "inner.png").symlink_to(root / "sub" / "b.png")
    (tmp_path / "outside.png").write_bytes(png())
    (root / "outer.png").symlink_to(tmp_path / "outside.png")
    (root / "outer").symlink_to(tmp_path)
    os.mkfifo(root / "fifo.png")
    return root


def local(path):
    return f"file://{quote(str(path))}"


def test_files_of_an_allowed_folder(folder):
    for name, data in [("a b.png", png()), ("sub/b.png", png(5, 5)), ("inner.png", png(5, 5))]:
        assert fetched(local(folder / name), image_folders=(folder,)).data == data
    other = folder.parent / "other"
    other.mkdir()
    assert fetched(local(folder / "a b.png"), image_folders=(other, folder)).data == png()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../outside.png", "image_not_allowed"),
        ("%2e%2e/outside.png", "image_not_allowed"),
        ("outer.png", "image_not_allowed"),
        ("outer/outside.png", "image_not_allowed"),
        ("sub/../../outside.png", "image_not_allowed"),
        ("none.png", "image_unavailable"),
        ("fifo.png", "image_unavailable"),
        ("sub", "image_unavailable"),
        ("a%00b.png", "image_not_allowed"),
        ("large.png", "image_unavailable"),
        ("text.png", "invalid_image"),
        ("n" * 300, "image_unavailable"),
    ],
)
def test_files_that_are_not_read(folder, name, code):
    error = refusal(f"file://{folder}/{name}", image_folders=(folder,), max_image_bytes=2000)
    assert error.code == code
    assert str(folder.parent) not in error.message, "the server's folders are its own matter"
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "url",
    ["file://evil.example/a.png", "file:a.png", "file:///dev/zero", "file:///proc/self/environ", "file://["],
)
def test_other_file_urls(folder, url):
    assert refusal(url, image_folders=(folder,)).code in ("invalid_image_url", "image_not_allowed")


PRIVATE = """127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 0.0.0.0
224.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 168.63.129.16 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::7f00:1 2002:7f00:1:: 64:ff9b::7f00:1 64:ff9b:1::a00:1 ff02::1 fec0::1
2001:db8::1 2001:0:7f00:1:: nonsense"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address):
    assert is_public(address)
