"""Command lines. Nothing here imports torch before a command needs it."""
