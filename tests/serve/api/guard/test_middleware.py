"""Keys, origins, names, rate and headers, as a client sees them."""

import logging

import pytest
from guarded_server import application
from starlette.testclient import TestClient

from vlm_serve.api.guard.addresses import client_network
from vlm_serve.api.guard.keys import add_key
from vlm_serve.api.guard.middleware.rate_limit import MOST_BUCKETS, TokenBuckets
from vlm_serve.api.guard.settings import ServerSettings

LOCAL = "http://127.0.0.1:8000"


def client(base=LOCAL, **settings):
    return TestClient(application(ServerSettings(model=".", **settings)), base, raise_server_exceptions=False)


@pytest.fixture
def keyed(tmp_path):
    """A client of a server with keys, and the key of alice."""
    key = add_key(tmp_path / "keys", "alice")
    return client(keys_file=tmp_path / "keys"), key


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_a_valid_key_names_the_owner(keyed):
    server, key = keyed
    answer = server.post("/v1/echo", content=b"abc", headers=bearer(key))
    assert answer.json()["owner"] == "alice"
    assert answer.json()["bytes"] == 3
    assert answer.json()["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Basic x", "bearer sk-vlm-wrong", "x" * 5000]
)
def test_other_requests_are_refused_before_their_body_is_read(keyed, value):
    server, _ = keyed
    answer = server.post("/v1/echo", content=b"x" * 100, headers={"authorization": value} if value else {})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/echo", "/v1/none", "/nothing", "//health", "/page", "/health/"]
)
def test_every_path_but_the_open_ones_needs_a_key(keyed, path):
    assert keyed[0].get(LOCAL + path, follow_redirects=False).status_code == 401


def test_open_paths(keyed, tmp_path):
    assert keyed[0].get("/health").status_code == 200
    assert keyed[0].get("/page/a.js").status_code == 200
    assert client(keys_file=tmp_path / "keys", open_metrics=True).get("/metrics").status_code == 200


def test_pages_of_other_origins_are_refused():
    server = client()
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:9000",
        "http://127.0.0.1:8000.evil.example",
    ):
        answer = server.post("/v1/echo", headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert server.post("/v1/echo", headers={"origin": LOCAL}).status_code == 200, "the server's own page"
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert server.options("/v1/echo", headers=preflight).status_code == 403


def test_allowed_origins(keyed, tmp_path):
    server = client(allowed_origins=("https://a.example",), keys_file=tmp_path / "keys")
    origin = {"origin": "https://a.example"}
    answer = server.post("/v1/echo", headers=origin)
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example", "the page can read the error"
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    preflight = server.options("/v1/echo", headers=asked)
    assert preflight.status_code == 200, "a preflight has no key"
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    other = server.options("/v1/echo", headers={**asked, "origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


BROWSER_HEADERS = (
    "authorization,content-type,openai-organization,openai-project,x-stainless-arch,x-stainless-helper-method,"
    "x-stainless-lang,x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "PATCH"])
def test_what_a_browser_asks_before_a_call_of_the_openai_client(keyed, tmp_path, method):
    """All headers that the client sends, and the methods that the API has."""
    server = client(allowed_origins=("https://a.example",), keys_file=tmp_path / "keys")
    asked = {
        "origin": "https://a.example",
        "access-control-request-method": method,
        "access-control-request-headers": BROWSER_HEADERS,
    }
    preflight = server.options("/v1/responses/resp_1", headers=asked)
    allowed = preflight.headers["access-control-allow-methods"].split(", ")
    assert sorted(allowed) == ["DELETE", "GET", "POST"]
    assert preflight.status_code == (200 if method in allowed else 400)
    assert preflight.headers["access-control-allow-headers"] == BROWSER_HEADERS
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in preflight.headers
    answer = server.delete("/v1/responses/resp_1", headers={"origin": "https://a.example"})
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after"} <= set(exposed)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("a.localhost", 200),
        ("box", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@127.0.0.1", 200),
        ("", 403),
        ("[::1", 403),
        ("localhost.evil.example", 403),
    ],
)
def test_names_of_a_server_without_keys(host, status):
    """A site whose name resolves to 127.0.0.1 would have the server's own origin."""
    answer = client(allowed_hosts=("box",)).get("/v1/echo", headers={"host": host})
    assert answer.status_code == status


def test_any_name_with_keys(keyed):
    server, key = keyed
    assert server.get("/v1/echo", headers={**bearer(key), "host": "models.example"}).status_code == 200


def test_the_rate_is_limited_for_each_key(tmp_path):
    alice, bob = (add_key(tmp_path / "keys", name) for name in ("alice", "bob"))
    server = client(keys_file=tmp_path / "keys", requests_per_minute=1, burst=2)
    statuses = [server.get("/v1/echo", headers=bearer(alice)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    answer = server.get("/v1/echo", headers=bearer(alice))
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert server.get("/v1/echo", headers=bearer(bob)).status_code == 200
    assert server.get("/health").status_code == 200


def test_a_bucket_is_refilled():
    now = 0.0
    buckets = TokenBuckets(per_minute=60, burst=2, clock=lambda: now)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1]
    now = 0.5
    assert buckets.take("a") == pytest.approx(0.5)
    now = 1.0
    assert buckets.take("a") == 0
    now = 1000.0
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 1], "never more than `burst`"


def test_the_number_of_buckets_is_bounded():
    buckets = TokenBuckets(per_minute=1, burst=1)
    for number in range(MOST_BUCKETS + 10):
        buckets.take(str(number))
    assert len(buckets._buckets) == MOST_BUCKETS


def test_clients_of_one_ipv6_network_share_a_bucket():
    hosts = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"]
    one, two, other, mapped, plain = (client_network(host) for host in hosts)
    assert one == two != other
    assert mapped == plain


def test_headers():
    answer = client().get("/v1/echo")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "cache-control" not in client().get("/page/a.js").headers


def test_the_log_has_no_secret(keyed, caplog):
    server, key = keyed
    with caplog.at_level(logging.INFO):
        server.post("/v1/echo?token=hidden-query", content=b"hidden-body", headers=bearer(key))
        server.post("/v1/echo", headers=bearer("hidden-key"))
        server.get("/" + "p" * 5000)
        server.get("/%0aforged%1b[31m")
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("access_log")]
    assert len(lines) == 4
    assert "\n" not in lines[3]
    assert "\x1b" not in lines[3]
    assert " alice POST /v1/echo 200 " in lines[0]
    assert " - POST /v1/echo 401 " in lines[1]
    assert len(lines[2]) < 400
    assert not any(key in line or "hidden" in line for line in lines)


def test_the_log_can_be_closed(caplog):
    with caplog.at_level(logging.INFO):
        client(access_log=False).get("/v1/echo")
    assert not [record for record in caplog.records if record.name.endswith("access_log")]
