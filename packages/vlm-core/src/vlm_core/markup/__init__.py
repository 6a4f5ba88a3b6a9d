"""HTML, Markdown and terminal text with foreign text escaped."""
