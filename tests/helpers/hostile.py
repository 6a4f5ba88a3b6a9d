"""Text that must stay text wherever it is shown, and checks that it did."""

from collections import Counter
from html.parser import HTMLParser

from hypothesis import strategies as st

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\r\nFAKE: all is well\x0b\x85\u2028\u202e\x9b31m[red]<b>\x00"
"""Escape sequences, every way to begin a line, and marks of rich and HTML; no name of a file, for its NUL."""
IN_NAMES = HOSTILE.replace("\x00", "").replace("<b>", "")
FRAGMENTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style>",
    "</title>",
    "<!--",
    "-->",
    "]]>",
    '"',
    "'",
    "`",
    " onload=x ",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "&#60;",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "\0",
    "\u202e",
    "\u2028",
    "\x1b[2J",
    "\n",
    "$x_{",
    "\\",
    "|",
    "![x](http://evil.example/x)",
    "<http://evil.example>",
    "www.evil.example",
)
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), min_size=1, max_size=4).map(
    lambda parts: "t" + "".join(parts)
)


def is_inert(printed: str) -> bool:
    """No control character but line feeds, and no line that the hostile text begins."""
    assert [c for c in printed if not c.isprintable() and c != "\n"] == [], ascii(printed)
    assert [line for line in printed.splitlines() if line.lstrip().startswith("FAKE")] == []
    return True


class _Tags(HTMLParser):
    """Tags with their attributes' names, counted; none is a handler or runs a script."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.found[tag, tuple(sorted(values))] += 1
        assert not any(name.startswith("on") for name in values), attrs
        assert not any((value or "").strip().lower().startswith("javascript:") for value in values.values())
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    handle_startendtag = handle_starttag


def elements(text: str) -> _Tags:
    """The tags of HTML or SVG."""
    parser = _Tags()
    parser.feed(text)
    return parser


def tags(page: str) -> Counter[tuple[str, tuple[str, ...]]]:
    """The tags of a page, among which is no script, and whose policy forbids any."""
    parser = elements(page)
    assert "default-src 'none'" in parser.policy
    assert "script-src" not in parser.policy
    assert not any(tag in ("script", "iframe", "object", "embed", "base", "form") for tag, _ in parser.found)
    return parser.found
