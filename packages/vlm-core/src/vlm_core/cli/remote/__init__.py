"""Commands that ask a server instead of a local model: the options `--url` and others, and `vlm-chat --url`."""

from vlm_core.cli.remote.chat import chat_with_server
from vlm_core.cli.remote.options import add_server, check_server, client_of

__all__ = ["add_server", "chat_with_server", "check_server", "client_of"]
