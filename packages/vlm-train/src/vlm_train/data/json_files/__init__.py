"""JSON files of rows: reading, limits, and an index by position."""
