"""Images from https addresses: allowed hosts, public addresses, redirects, limits. No test leaves this machine."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import anyio
import pytest

from vlm_serve.api.guard import https
from vlm_serve.api.guard.errors import RequestError
from vlm_serve.api.guard.settings import ServerSettings

HOST = "images.example"
CONTENT = b"x" * 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self):
        self.requests.append((self.headers["host"], self.path))
        where = self.path.partition("?")[2]
        if self.path.startswith("/to?"):
            self.answer(302, location=where)
        elif self.path == "/loop":
            self.answer(302, location="/loop")
        elif self.path == "/slow":
            time.sleep(2)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(CONTENT)
        elif self.path == "/gzip":
            self.answer(200, CONTENT, **{"content-encoding": "gzip"})
        elif self.path == "/lies":
            self.answer(200, CONTENT, **{"content-length": "9" * 12})
        else:
            self.answer(404 if self.path == "/none" else 200, CONTENT)

    def answer(self, status, content=b"", **fields):
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **fields}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clients that break a connection off are meant."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += [
        "-days",
        "2",
        "-subj",
        f"/CN={HOST}",
        "-addext",
        f"subjectAltName=DNS:{HOST},DNS:other.example",
    ]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def port(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def names(monkeypatch, certificate):
    """Addresses of names; the test's own server counts as public, the rest as `is_public` says."""
    addresses = {HOST: ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    real = https.is_public  # pyright: ignore[reportPrivateImportUsage]

    async def resolve(host, port, **kwargs):
        if host not in addresses:
            raise socket.gaierror("unknown")
        return [(2, 1, 6, "", (address, port)) for address in addresses[host]]

    monkeypatch.setattr(https.anyio, "getaddrinfo", resolve)  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr(https, "is_public", lambda address: address == "127.0.0.1" or real(address))
    monkeypatch.setattr(
        https, "_ssl_context", lambda: ssl.create_default_context(cafile=certificate / "cert.pem")
    )
    Handler.requests.clear()
    return addresses


def fetched(url, port, hosts=None, **settings):
    hosts = hosts if hosts is not None else (f"{HOST}:{port}",)
    values = ServerSettings(model=".", image_hosts=hosts, image_timeout=1, max_image_bytes=5000, **settings)
    return anyio.run(https.fetch_https, url, "image 1", values)


def refusal(url, port, hosts=None, **settings):
    with pytest.raises(RequestError) as caught:
        fetched(url, port, hosts, **settings)
    assert caught.value.status == 400
    assert caught.value.message.startswith("image 1: ")
    return caught.value


def test_an_allowed_host(names, port):
    assert fetched(f"https://{HOST}:{port}/a b.png?q=ä#part", port) == CONTENT
    assert Handler.requests == [(f"{HOST}:{port}", "/a%20b.png?q=%C3%A4")]


def test_redirects_are_followed_and_checked(names, port):
    assert fetched(f"https://{HOST}:{port}/to?/a.png", port) == CONTENT
    names["evil.example"] = ["127.0.0.1"]
    for target in (
        f"https://evil.example:{port}/",
        f"https://127.0.0.1:{port}/",
        "https://169.254.169.254/latest",
        f"http://{HOST}:{port}/",
        "file:///etc/passwd",
        f"//evil.example:{port}/",
        f"https://{HOST}/",
    ):
        Handler.requests.clear()
        assert refusal(f"https://{HOST}:{port}/to?{target}", port).code == "image_not_allowed"
        assert len(Handler.requests) == 1, "the target of the redirect was asked"


@pytest.mark.parametrize("target", ["https://[::1", "//[", "https://a:b/", "https://\u2100/"])
def test_a_redirect_to_what_is_no_url(names, port, target):
    assert refusal(f"https://{HOST}:{port}/to?{target}", port).code in (
        "invalid_image_url",
        "image_not_allowed",
    )


def test_certificates_are_read_once():
    assert https._ssl_context() is https._ssl_context()  # pyright: ignore[reportPrivateUsage]


def test_redirects_end(names, port):
    error = refusal(f"https://{HOST}:{port}/loop", port)
    assert error.message == f"image 1: could not be fetched from {HOST}: more than 3 redirects."
    assert len(Handler.requests) == 4


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1"])
def test_a_name_with_a_private_address_is_not_connected_to(names, port, address):
    names[HOST] = [address]
    assert refusal(f"https://{HOST}:{port}/", port).code == "image_not_allowed"
    names[HOST] = ["127.0.0.1", address]
    assert refusal(f"https://{HOST}:{port}/", port).code == "image_not_allowed", "one of two"
    assert Handler.requests == []


def test_the_address_that_was_checked_is_connected_to(names, port, monkeypatch):
    """DNS rebinding: a second answer of the name server has no effect, as there is no second question."""
    asked = []
    resolve = https.anyio.getaddrinfo  # pyright: ignore[reportPrivateImportUsage]

    async def once(host, *args, **kwargs):
        asked.append(host)
        return await resolve(host, *args, **kwargs)

    monkeypatch.setattr(https.anyio, "getaddrinfo", once)  # pyright: ignore[reportPrivateImportUsage]
    assert fetched(f"https://{HOST}:{port}/", port) == CONTENT
    assert [host for host in asked if host == HOST] == [HOST]


def test_literal_addresses_in_any_notation(names, port):
    """Without the names of this test: the system reads `0x7f.1` and `2130706433` as 127.0.0.1."""
    for host in ("127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "localhost"):
        values = ("*", f"*:{port}")
        code = refusal(f"https://{host}:{port}/", port, values).code
        assert code in ("image_not_allowed", "image_unavailable")
    assert Handler.requests == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://{host}:{port}/", "image_not_allowed"),
        ("https://{host}/", "image_not_allowed"),
        ("https://user:word@{host}:{port}/", "image_not_allowed"),
        ("https://{host}:{port}@evil.example/", "image_not_allowed"),
        ("https://evil.example\\@{host}:{port}/", "image_not_allowed"),
        ("https://evil.example/{host}:{port}", "image_not_allowed"),
        ("https://{host}.evil.example:{port}/", "image_not_allowed"),
        ("https:///a.png", "invalid_image_url"),
        ("https://{host}:99999/", "invalid_image_url"),
        ("https://[::1/", "invalid_image_url"),
        ("https://" + "ä" * 300 + "/", "invalid_image_url"),
    ],
)
def test_urls_that_are_not_fetched(names, port, url, code):
    assert refusal(url.format(host=HOST, port=port), port).code == code
    assert Handler.requests == []


def test_patterns(names, port):
    url = f"https://{HOST}:{port}/"
    assert fetched(url, port, (f"*.example:{port}",)) == CONTENT
    assert fetched(url.upper().replace("HTTPS", "https"), port) == CONTENT
    assert fetched(url.replace(HOST, HOST + "."), port) == CONTENT
    for hosts in (("*.images.example:{port}",), ("example:{port}",), ("*:443",), ()):
        assert refusal(url, port, tuple(each.format(port=port) for each in hosts)).code == "image_not_allowed"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/none", "the status is 404"),
        ("/slow", "no full answer within 1 s"),
        ("/endless", "more than the 5000 bytes"),
        ("/lies", "more than the 5000 bytes"),
        ("/gzip", "compressed"),
    ],
)
def test_answers_that_are_no_image(names, port, path, text):
    assert (
        text
        in refusal(
            f"https://{HOST}:{port}{path}?secret=1" if path == "/x" else f"https://{HOST}:{port}{path}", port
        ).message
    )


def test_messages_hold_no_part_of_the_url_but_the_host(names, port):
    message = refusal(f"https://{HOST}:{port}/none?signature=hidden", port, ("evil.example",)).message
    assert "hidden" not in message


def test_a_certificate_of_another_name_is_refused(names, port):
    names["third.example"] = ["127.0.0.1"]
    error = refusal(f"https://third.example:{port}/", port, (f"third.example:{port}",))
    assert "the connection failed" in error.message
    assert Handler.requests == []


def test_nothing_listens(names):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "the connection failed" in refusal(f"https://{HOST}:{port}/", port).message
