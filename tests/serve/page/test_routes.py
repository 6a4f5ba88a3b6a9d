"""The page's responses: types, caching by digest, security headers."""

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import vlm_serve.page
from vlm_serve.page import routes
from vlm_serve.page.static_files import static_files


@pytest.fixture(scope="module")
def client():
    return TestClient(Starlette(routes=routes()))


@pytest.fixture(scope="module")
def folder(client):
    """The address of the page's files, with their digest."""
    found = re.search(r'src="(page/[0-9a-f]{16}/)app/main.js"', client.get("/").text)
    return "/" + found[1]


def test_the_page_is_revalidated(client):
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "{digest}" not in response.text
    for sent in (response.headers["etag"], f'"x", W/{response.headers["etag"]}'):
        again = client.get("/", headers={"If-None-Match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == response.headers["etag"]
    assert client.get("/", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("app/main.js", "text/javascript; charset=utf-8"),
        ("style/tokens.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_files_are_kept_for_ever_under_their_digest(client, folder, path, content_type):
    response = client.get(folder + path)
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.head(folder + path).headers["content-length"] == str(len(response.content))
    assert client.get(folder + path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304


def test_every_file_of_the_folder_is_served(client, folder):
    root = Path(vlm_serve.page.__file__).parent / "static"
    paths = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {"index.html"}
    assert paths == set(static_files().others)
    assert {client.get(folder + path).status_code for path in paths} == {200}


@pytest.mark.parametrize(
    "path",
    [
        "/page/0000000000000000/app/main.js",
        "{}app/none.js",
        "{}",
        "{}index.html",
        "{}../../routes.py",
        "{}%2e%2e/%2e%2e/routes.py",
        "{}..%2f..%2froutes.py",
        "{}/etc/passwd",
        "{}app",
    ],
)
def test_nothing_else_is_served(client, folder, path):
    assert client.get(path.format(folder)).status_code == 404


def test_only_reading_is_allowed(client, folder):
    assert client.post("/").status_code == 405
    assert client.put(folder + "app/main.js").status_code == 405


@pytest.mark.parametrize("path", ["/", "{}app/main.js"])
def test_every_response_carries_the_policy(client, folder, path):
    headers = client.get(path.format(folder)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_works_under_a_prefix(client):
    """Nothing in the page is addressed from the root of the host."""
    assert not re.search(r'(?:src|href)="/', client.get("/").text)
