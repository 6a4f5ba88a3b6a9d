"""Files to plain data; every fault is a `UserError` with file and line."""
