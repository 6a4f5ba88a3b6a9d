"""The chat page in a browser, in the words of its user."""

from __future__ import annotations

import io
import os
import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""

# a step of a test on this machine is done at once: what takes longer has failed
expect.set_options(timeout=4000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without its sandbox where the system's administrator runs the tests."""
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*sandbox, *FAKE_CAMERA])
        yield browser
        browser.close()


class ChatPage:
    """One tab. `faults` are errors of scripts, `fetched` addresses, `violations` what the page's policy has stopped."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(4000)
        self.page: Page = context.new_page()
        self.faults: list[str] = []
        self.fetched: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.add_init_script(VIOLATIONS)
        self.size = self.page.viewport_size

    def open(self, address: str | None = None) -> None:
        """Go to the page, or load it anew."""
        if address:
            self.page.goto(address)
        else:
            self.page.reload()

    def clear(self, address: str) -> None:
        """A tab as new: nothing stored, its first size."""
        if self.page.url.startswith(address):
            self.page.evaluate("sessionStorage.clear()")
        session = self.page.context.new_cdp_session(self.page)
        kinds = {"origin": address[:-1], "storageTypes": "local_storage,indexeddb"}
        session.send("Storage.clearDataForOrigin", kinds)
        session.detach()
        self.page.set_viewport_size(self.size)
        self.page.unroute_all()
        self.faults.clear()
        self.fetched.clear()

    @property
    def violations(self) -> list[str]:
        return self.page.evaluate("window.violations")

    @property
    def question(self) -> Locator:
        return self.page.get_by_role("textbox", name="Question")

    @property
    def answers(self) -> Locator:
        return self.page.locator("article.answer .markdown")

    @property
    def titles(self) -> Locator:
        return self.page.locator("#conversations .title")

    @property
    def attachments(self) -> Locator:
        return self.page.locator("#attachments li")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> None:
        """Send a question with Enter, not waiting for its answer."""
        self.question.fill(text)
        expect(self.button("Send")).to_be_enabled()
        self.question.press("Enter")

    def ask(self, text: str) -> Locator:
        """Send a question and wait until its answer has ended; returns the answer's text."""
        count = self.answers.count()
        self.send(text)
        expect(self.answers).to_have_count(count + 1)
        expect(self.button("Send")).to_be_visible()
        return self.answers.nth(count)

    def drop(self, *files: dict[str, Any]) -> None:
        self._transfer("drop", "dataTransfer", files)

    def paste(self, *files: dict[str, Any]) -> None:
        self._transfer("paste", "clipboardData", files)

    def _transfer(self, event: str, member: str, files: tuple[dict[str, Any], ...]) -> None:
        script = """([event, member, files]) => {
          const transfer = new DataTransfer();
          for (const { name, mimeType, base64 } of files) {
            const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: mimeType }));
          }
          const type = member === "dataTransfer" ? DragEvent : ClipboardEvent;
          const options = { [member]: transfer, bubbles: true, cancelable: true };
          for (const name of event === "drop" ? ["dragenter", "dragover", "drop"] : ["paste"]) {
            document.activeElement.dispatchEvent(new type(name, options));
          }
        }"""
        plain = [
            {**{k: f[k] for k in ("name", "mimeType")}, "base64": b64encode(f["buffer"]).decode()}
            for f in files
        ]
        self.page.evaluate(script, [event, member, plain])


def image_file(
    name: str = "red.png", color: str = "red", size: tuple[int, int] = (40, 20), **options: Any
) -> dict[str, Any]:
    """An encoded image as playwright's `set_input_files` takes it; the format is that of the name."""
    buffer = io.BytesIO()
    kind = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP"}[name.rpartition(".")[2]]
    image = options.pop("image", None) or Image.new("RGB", size, color)
    image.save(buffer, kind, **options)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": buffer.getvalue()}
