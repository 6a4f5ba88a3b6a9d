"""Images and videos: chosen, dropped, pasted, taken by the camera; shown, removed, sent upright."""

import base64
import io

import pytest
from chat_page import expect, image_file
from PIL import Image

HOSTILE = '<img src=x onerror="window.hacked=1">\'$(reboot)`.png'


def sent_images(stub):
    parts = stub.requests[-1]["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in urls]


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_images_are_attached_and_sent(chat, stub, way):
    files = [image_file("red.png"), image_file("blue.jpg", "blue")]
    expect(chat.button("Choose images or videos")).to_be_visible()
    if way == "choose":
        chat.page.locator("#file-input").set_input_files(files)
    else:
        (chat.drop if way == "drop" else chat.paste)(*files)
    expect(chat.attachments).to_have_count(2)
    expect(chat.page.locator("#drop-target")).to_be_hidden()
    expect(chat.page.get_by_role("img", name="blue.jpg")).to_be_visible()
    chat.ask("What is this?")
    content = stub.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert [image.format for image in sent_images(stub)] == ["PNG", "JPEG"]
    sent = base64.b64decode(content[0]["image_url"]["url"].partition("base64,")[2])
    assert sent == files[0]["buffer"], "a small image is sent byte by byte"
    expect(chat.attachments).to_have_count(0)
    chat.button("Show blue.jpg").click()
    expect(chat.page.get_by_role("dialog").get_by_role("img", name="blue.jpg")).to_be_visible()


def test_an_image_is_sent_without_text(chat, stub):
    chat.paste(image_file())
    expect(chat.attachments).to_have_count(1)
    chat.button("Send").click()
    expect(chat.answers).to_have_text("You said:")
    assert [part["type"] for part in stub.requests[0]["messages"][0]["content"]] == ["image_url"]


def test_an_attached_image_is_removed(chat, stub):
    chat.drop(image_file("red.png"), image_file("blue.png", "blue"))
    expect(chat.attachments).to_have_count(2)
    chat.button("Remove red.png").click()
    expect(chat.attachments).to_have_count(1)
    chat.ask("hello")
    [image] = sent_images(stub)
    assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_an_edited_question_keeps_its_images(chat, stub):
    chat.drop(image_file("red.png"), image_file("blue.png", "blue"))
    expect(chat.attachments).to_have_count(2)
    chat.ask("one")
    chat.page.locator("article.question").hover()
    chat.button("Edit the question").click()
    chat.button("Remove blue.png").click()
    chat.send("two")
    expect(chat.answers).to_have_text(["You said: two"])
    assert len(sent_images(stub)) == 1
    chat.open()
    chat.titles.click()
    expect(chat.page.locator(".thumbnail img")).to_have_count(1)


def tall(orientation):
    """A photo lying on its side: blue on the left in the file; `orientation` 6 turns that to the top."""
    image = Image.new("RGB", (400, 300), "red")
    image.paste("blue", (0, 0, 200, 300))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image_file("photo.jpg", image=image, exif=exif)


def test_a_turned_photo_is_shown_upright(chat, stub):
    chat.paste(tall(6))
    expect(chat.attachments).to_have_count(1)
    size = chat.page.locator("#attachments img").evaluate("(img) => [img.naturalWidth, img.naturalHeight]")
    assert size == [300, 400]
    chat.ask("hello")
    [image] = sent_images(stub)
    assert image.size == (400, 300)
    assert image.getexif()[0x0112] == 6, "the server turns it"


def test_a_large_photo_is_redrawn_upright_and_smaller(chat, stub):
    image = Image.new("RGB", (4000, 1000), "red")
    image.paste("blue", (0, 0, 2000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6
    chat.paste(image_file("photo.jpg", image=image, exif=exif))
    expect(chat.attachments).to_have_count(1)
    chat.ask("hello")
    [image] = sent_images(stub)
    assert (image.size, image.format, dict(image.getexif())) == ((512, 2048), "JPEG", {})
    red, _, blue = image.convert("RGB").getpixel((256, 100))
    assert blue > 240 > 20 > red


def test_an_image_of_another_format_is_sent_as_jpeg(chat, stub):
    chat.paste(image_file("red.bmp"))
    expect(chat.attachments).to_have_count(1)
    chat.ask("hello")
    [image] = sent_images(stub)
    assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("name", "mime", "content"),
    [
        ("notes.pdf", "application/pdf", b"%PDF-1.7"),
        ("broken.png", "image/png", b"\x89PNG\r\n\x1a\n"),
        (
            "drawing.svg",
            "image/svg+xml",
            b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hacked=1'/>",
        ),
        ("empty.png", "image/png", b""),
    ],
)
def test_a_file_that_is_no_image_is_refused_by_name(chat, name, mime, content):
    chat.drop({"name": name, "mimeType": mime, "buffer": content}, image_file("good.png"))
    expect(chat.page.locator(".notice")).to_contain_text(f"“{name}” is left out: it is no image")
    expect(chat.attachments).to_have_count(1)
    assert chat.page.evaluate("window.hacked") is None


def test_a_file_that_fails_unexpectedly_holds_nothing_up(chat, stub):
    """Such as a canvas that the browser has no memory for."""
    chat.page.evaluate(
        "() => { CanvasRenderingContext2D.prototype.fillRect = () => { throw new TypeError('no memory'); }; }"
    )
    chat.drop(image_file("bad.bmp"), image_file("good.png"))
    expect(chat.page.locator(".notice")).to_contain_text("“bad.bmp” can't be attached.")
    expect(chat.attachments).to_have_count(1)
    chat.ask("one")
    assert len(stub.requests[0]["messages"][0]["content"]) == 2


def test_a_hostile_file_name_is_text(chat):
    chat.drop({**image_file(), "name": HOSTILE}, {"name": HOSTILE, "mimeType": "text/html", "buffer": b"x"})
    expect(chat.attachments).to_have_count(1)
    expect(chat.page.locator(".notice")).to_contain_text("<img src=x")
    chat.button("Send").click()
    expect(chat.answers).to_have_count(1)
    expect(chat.titles).to_contain_text("<img src=x")
    assert chat.page.locator("[onerror]").count() == 0
    assert chat.page.evaluate("window.hacked") is None


def test_a_model_without_images_gets_none(chat, stub):
    stub.models = [{"id": "text-only", "images": False}]
    chat.open()
    expect(chat.page.get_by_text("Ask in your own words.")).to_be_visible()
    expect(chat.page.locator("#choose")).to_be_hidden()
    expect(chat.page.locator("#camera")).to_be_hidden()
    chat.drop(image_file())
    expect(chat.page.locator(".notice")).to_contain_text("this model reads no images")
    expect(chat.attachments).to_have_count(0)


def test_a_video_is_sent_where_the_model_reads_videos(chat, stub):
    video = {"name": "clip.mp4", "mimeType": "video/mp4", "buffer": b"\0\0\0\x18ftypmp42"}
    expect(chat.button("Choose images or videos")).to_be_visible()
    chat.drop(video)
    expect(chat.attachments).to_have_count(1)
    chat.ask("What happens?")
    [part, _] = stub.requests[0]["messages"][0]["content"]
    assert part["video_url"]["url"] == f"data:video/mp4;base64,{base64.b64encode(video['buffer']).decode()}"
    stub.models = [{"id": "images-only", "images": True, "videos": False}]
    chat.open()
    expect(chat.button("Choose images")).to_be_visible()
    chat.drop(video)
    expect(chat.page.locator(".notice")).to_contain_text("this model reads no videos")


def test_the_camera_takes_a_photo(chat, stub):
    chat.button("Camera").click()
    chat.button("Take a photo").click()
    expect(chat.attachments).to_have_count(1)
    expect(chat.page.get_by_role("dialog")).to_have_count(0)
    chat.ask("hello")
    assert [image.format for image in sent_images(stub)] == ["JPEG"]


def test_the_camera_records_a_video(chat, stub):
    chat.button("Camera").click()
    chat.button("Record a video").click()
    expect(chat.page.get_by_text("Recording, at most 30 seconds.")).to_be_visible()
    chat.page.wait_for_timeout(300)
    chat.button("Stop recording").click()
    expect(chat.attachments).to_have_count(1)
    chat.ask("hello")
    url = stub.requests[0]["messages"][0]["content"][0]["video_url"]["url"]
    assert url.startswith("data:video/webm;base64,GkXf"), "the first bytes of Matroska"
