"""Clients of OpenAI-compatible servers, with the standard library alone: requests, streams, retries, conversations."""

from vlm_core.remote.client import ChatClient, Chunk, Completion, Decoding, ListedModel, choose_model
from vlm_core.remote.content import Part, content_of, image_part, video_part
from vlm_core.remote.conversation import RemoteConversation
from vlm_core.remote.model import RemoteModel
from vlm_core.remote.parallel import in_parallel
from vlm_core.remote.retries import Retries
from vlm_core.remote.server import Server, server_at
from vlm_core.remote.transport import RequestFailed

__all__ = [
    "ChatClient",
    "Chunk",
    "Completion",
    "Decoding",
    "ListedModel",
    "Part",
    "RemoteConversation",
    "RemoteModel",
    "RequestFailed",
    "Retries",
    "Server",
    "choose_model",
    "content_of",
    "image_part",
    "in_parallel",
    "server_at",
    "video_part",
]
