"""Every setting of a server, checked once, before anything is loaded or listens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MIB = 2**20
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1, le=2**40)]


class ServerSettings(BaseModel):
    """How a model is served. The defaults let nobody in but programs of the same machine, and read no file or address.

    `vlm-serve --help` describes the options that set these fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    """Model folder."""
    model_name: str = ""
    """The name of the model in the API; empty: the name of the folder's spec."""
    devices: tuple[str, ...] = ()
    """One worker for each; empty: the first GPU, or the CPU."""
    dtype: str | None = None
    """Converts weights to this dtype; None: as saved."""
    trust_remote_code: bool = False
    reload: bool = False
    """Serve the folder's new content after it has changed; otherwise the change is only told."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    """0: a free port that the system chooses."""
    keys_file: Path | None = None
    """File of hashed API keys (`vlm-serve keys`); None: no key is asked for."""
    open_metrics: bool = False
    """Whether `/metrics` needs no key."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other pages that may call the API, such as `https://example.org`; empty: none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of this server, beside its addresses and localhost; asked for only without keys: see `origins.py`."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose `X-Forwarded-For` names the client."""
    access_log: bool = True

    max_body_bytes: Bytes = 64 * MIB
    max_pending_bytes: Bytes = 1024 * MIB
    """Bodies of all requests that have no answer yet, together; above it requests are refused with status 503."""
    max_header_bytes: Bytes = 32 * 1024
    max_images: Count = 32
    """Images and videos of one request."""
    max_image_bytes: Bytes = 20 * MIB
    """Bytes of an encoded image or video."""
    max_image_pixels: Bytes = 64_000_000
    """Pixels of one image, known from its header before it is decoded."""
    max_positions: Count | None = None
    """Positions of a prompt with its answer; None: as many as the engine's budget allows."""
    max_choices: Count = 8
    """The largest `n` of a request."""

    header_timeout: Seconds = 10.0
    """For the whole head of a request, counted from its first byte or the connection's start."""
    body_timeout: Seconds = 60.0
    """For the whole body of a request."""
    send_timeout: Seconds = 30.0
    """For a client to take the next part of an answer; a slower one is disconnected."""
    keep_alive_timeout: Seconds = 15.0
    """For a connection without a request."""
    answer_timeout: Seconds = 600.0
    """From a request's arrival to the end of its answer, waiting included."""
    grace: Seconds = 30.0
    """For answers that were begun, after the server was told to stop."""

    worker_timeout: float = Field(default=300.0, ge=0, le=86_400)
    """For one step of a worker process; one that takes longer is killed and started again. 0: never."""

    max_responses: int = Field(default=10_000, ge=0, le=1_000_000)
    """Stored responses; beyond this and the next limit the least recently used are dropped. 0: none is stored."""
    response_bytes: Bytes = 256 * MIB
    """Of all stored responses, with the images of their conversations."""
    response_age: float = Field(default=2_592_000.0, gt=0, le=31_536_000)
    """Seconds for which a response is stored."""

    max_connections: Count = 1024
    max_queue: Count = 256
    """Requests that wait for a slot; more are refused with status 503."""
    requests_per_minute: Count | None = None
    """For each API key, or each address where no key is asked for; None: no limit."""
    burst: Count = 20
    """Requests at once before the rate is enforced."""

    image_hosts: tuple[str, ...] = ()
    """Hosts (`example.org`, `example.org:8443`, `*.example.org`) from which https images are fetched; empty: none."""
    image_folders: tuple[Path, ...] = ()
    """Folders whose files `file:` URLs may name; empty: none."""
    image_timeout: Seconds = 10.0
    """For fetching one image, redirects included."""
    image_redirects: int = Field(default=3, ge=0, le=20)

    memory_bytes: Bytes | None = None
    """Budget of slots' states on each device; None: the engine's choice."""
    max_slots: Count | None = None
    """Answers computed at once on each device; None: as many as the budget allows."""
    prefill_chunk: Count = 512
    """Positions of a prompt that are read between two steps of decoding."""
    image_chunk: Count = 8
    """Views of an image, or frames of a video, that are encoded between two steps of decoding."""
    cache_bytes: int = Field(default=512 * MIB, ge=0, le=2**44)
    """Budget of cached states in memory; 0: no cache."""
    cache_folder: Path | None = None
    """Folder that keeps cached states across restarts; None: memory alone."""
    cache_folder_bytes: int = Field(default=8192 * MIB, ge=0, le=2**50)
    shared_cache: bool = False
    """Whether one key's cached states may speed up another's requests."""

    @property
    def needs_key(self) -> bool:
        return self.keys_file is not None
