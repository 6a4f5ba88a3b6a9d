"""HTML, Markdown and terminal text in which foreign text stays text."""
