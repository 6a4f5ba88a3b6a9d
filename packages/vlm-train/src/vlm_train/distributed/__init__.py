"""Processes of a run: launch, strategies (DDP, FSDP2), signals, watchdog, exit codes."""
