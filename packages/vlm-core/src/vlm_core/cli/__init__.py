"""Command lines. torch is imported only when a command needs it."""
