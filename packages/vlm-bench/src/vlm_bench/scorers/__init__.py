"""The published scoring rules as pure functions, quirks included."""
