"""Markdown of answers: what it becomes, also while it grows, and that nothing in it is executed or loaded."""

import pytest
from chat_page import expect

RENDER = """async ([text, steps]) => {
  const folder = document.querySelector("script[type=module]").src.replace("app/main.js", "");
  const { MarkdownView } = await import(folder + "markdown/render.js");
  const container = document.createElement("div");
  const view = new MarkdownView(container);
  const size = Math.max(1, Math.ceil(text.length / steps));
  for (let end = size; end < text.length + size; end += size) view.update(text.slice(0, end));
  for (const control of container.querySelectorAll(".code-head")) control.remove();
  return container.innerHTML;
}"""


@pytest.fixture(scope="module")
def tab(tabs, stub_server):
    page = tabs({})
    page.open(stub_server.address)
    return page


@pytest.fixture
def render(tab):
    """Markdown -> HTML of its elements, after `steps` updates with growing text."""

    def rendered(text, steps=1):
        html = tab.page.evaluate(RENDER, [text, steps])
        return html.replace(' dir="auto"', "")

    return rendered


def link(url, text, title=None):
    kind = 'target="_blank" rel="noopener noreferrer nofollow"'
    return f'<a href="{url}" title="{title or url}" {kind}>{text}</a>'


CASES = {
    "paragraphs": ("one\ntwo\n\n\nthree", "<p>one<br>two</p><p>three</p>"),
    "emphasis": (
        "*a* **b** ***c*** ~~d~~ _e_",
        "<p><em>a</em> <strong>b</strong> <strong><em>c</em></strong> <del>d</del> <em>e</em></p>",
    ),
    "nested emphasis": ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
    "no emphasis": (
        "2 * 3 * 4, snake_case_name, **open, a ~ b",
        "<p>2 * 3 * 4, snake_case_name, **open, a ~ b</p>",
    ),
    "escapes": (r"\*a\* \[b\](c) \\", r"<p>*a* [b](c) \</p>"),
    "code": ("`a*b*` ``c`d`` `open", "<p><code>a*b*</code> <code>c`d</code> `open</p>"),
    "headings": ("# a\n## b ##\n###### c\n#d", "<h3>a</h3><h4>b</h4><h6>c</h6><p>#d</p>"),
    "rule": ("a\n\n---\n* * *", "<p>a</p><hr><hr>"),
    "quote": (
        "> a\n> > b\n\nc",
        "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    ),
    "list": ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    "numbers": ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    "number in a sentence": ("It was in\n1990. Then", "<p>It was in<br>1990. Then</p>"),
    "bullets below numbers": ("1. a\n  - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"),
    "loose list": ("- a\n\n  b\n- c", "<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>"),
    "list after text": ("Two:\n* a\n* b", "<p>Two:</p><ul><li>a</li><li>b</li></ul>"),
    "table": (
        "| a | b |\n|---|:-:|\n| `x\\|y` | 1 |\n| z |",
        '<table><thead><tr><th scope="col" class="left">a</th><th scope="col" class="center">b</th></tr></thead>'
        '<tbody><tr><td class="left"><code>x|y</code></td><td class="center">1</td></tr>'
        '<tr><td class="left">z</td></tr></tbody></table>',
    ),
    "link": ("[*a*](https://b.c/d_e_(f) 'g')", f"<p>{link('https://b.c/d_e_(f)', '<em>a</em>')}</p>"),
    "addresses": (
        "See https://a.b/c_d, <https://e.f>, mailto:g.",
        f"<p>See {link('https://a.b/c_d', 'https://a.b/c_d')}, {link('https://e.f/', 'https://e.f')}, mailto:g.</p>",
    ),
    "image": ("![a cat](https://b.c/d.png)", f"<p>{link('https://b.c/d.png', 'a cat')}</p>"),
    "reversed address": (
        "https://b.c/\u202egnp.exe <https://b.c/\u2066>",
        f"<p>{link('https://b.c/', 'https://b.c/')}\u202egnp.exe &lt;{link('https://b.c/', 'https://b.c/')}\u2066&gt;</p>",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rendered(render, name):
    text, html = CASES[name]
    got = render(text)
    if name == "table":
        got = got.removeprefix('<div class="wide-table" tabindex="0" role="region" aria-label="Table">')
        got = got.removesuffix("</div>")
    assert got == html


def test_code_blocks(render):
    html = render("```python\n<b>*x*</b>\n\n  y\n```\nafter\n~~~\n```\nopen")
    assert "<code>&lt;b&gt;*x*&lt;/b&gt;\n\n  y</code></pre></div><p>after</p>" in html
    assert html.endswith("<code>```\nopen</code></pre></div>")


@pytest.mark.parametrize("steps", [3, 40, 1000])
def test_text_that_grows_becomes_the_same(render, steps):
    text = "\n\n".join(text for text, _ in CASES.values()) + "\n\n```\ncode\n\nmore\n```\n\n- a\n\n- b\n\nend"
    assert render(text, steps) == render(text)


HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1><iframe srcdoc='<script>parent.hacked=1</script>'>",
    "[a](javascript:window.hacked=1)",
    "[a](JaVaScRiPt:window.hacked=1)",
    "[a](java\tscript:window.hacked=1)",
    "[a](&#106;avascript:window.hacked=1)",
    "[a](data:text/html,<script>window.hacked=1</script>)",
    "[a](vbscript:x) [b](file:///etc/passwd) [c](blob:x) [d](//evil.example/x) [e](/v1/models)",
    "<javascript:window.hacked=1>",
    "![a](javascript:window.hacked=1)",
    "![a](/track.png)",
    "[![a](/track.png)](javascript:window.hacked=1)",
    "```<img/src=x/onerror=window.hacked=1>\ncode\n```",
    "| <img src=x onerror=window.hacked=1> |\n|---|\n| <script>window.hacked=1</script> |",
    '[a](https://b.c/"onmouseover="window.hacked=1)',
    "# <style>*{display:none}</style>",
]


def test_hostile_answers_are_text(chat, stub):
    """Also as a conversation's title, which is the question."""
    expect(chat.button("Camera")).to_be_visible()
    fetched = []
    chat.page.on("request", lambda request: fetched.append(request.url))
    stub.answers["show"] = "\n\n".join(HOSTILE)
    answer = chat.ask("show")
    expect(answer).to_contain_text("<script>window.hacked=1</script>")
    chat.ask("<img src=x onerror=window.hacked=1>")
    chat.page.wait_for_timeout(100)
    assert chat.page.evaluate("window.hacked") is None
    tags = {
        tag.lower() for tag in answer.evaluate("(e) => [...e.querySelectorAll('*')].map((n) => n.tagName)")
    }
    assert not tags & {"script", "style", "img", "iframe"}
    links = answer.evaluate("(e) => [...e.querySelectorAll('a')].map((n) => n.href)")
    assert links == ["https://b.c/%22onmouseover=%22window.hacked=1"], "the others are of no safe protocol"
    assert {url.removeprefix(stub.address) for url in fetched} == {"v1/chat/completions"}


def test_the_policy_stops_what_would_be_executed(chat):
    """And a test would see it."""
    stopped = """() => {
      const attempts = [
        () => { document.body.innerHTML = "<b>x</b>"; },
        () => { document.body.append(Object.assign(new Image(), { src: "http://127.0.0.2/x.png" })); },
        () => { document.body.append(Object.assign(document.createElement("script"), { text: "hacked = 1" })); },
        () => { document.body.setAttribute("onclick", "hacked = 1"); document.body.click(); },
      ];
      for (const attempt of attempts) {
        try { attempt(); } catch { /* Trusted Types raise */ }
      }
    }"""
    chat.page.evaluate(stopped)
    chat.page.wait_for_function("violations.length >= 4")
    kinds = {violation.partition(" ")[0] for violation in chat.violations}
    assert kinds >= {"require-trusted-types-for", "img-src"}
    assert chat.page.evaluate("window.hacked") is None
    chat.page.evaluate("violations.length = 0")
    chat.fetched.clear()


def test_a_hostile_model_name_is_text(chat, stub):
    name = "<img src=x onerror=window.hacked=1>" + "x" * 300
    stub.models = [{"id": name}, {"id": "a"}]
    chat.open()
    expect(chat.page.get_by_role("combobox", name="Model")).to_have_value(name)
    stub.models = [{"id": name}]
    chat.open()
    expect(chat.page.get_by_role("heading", level=1)).to_have_text(name)
    assert chat.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert chat.page.evaluate("window.hacked") is None


LONG = {
    "brackets": "[" * 50_000,
    "links": "[a](" * 15_000,
    "stars": "*a **b " * 10_000,
    "backticks": "".join("`" * (i % 300 + 1) + " " for i in range(400)),
    "quotes": ">" * 50_000,
    "lists": "".join(" " * (i % 40) + "- a\n" for i in range(5000)),
    "nested": "\n".join("  " * i + "- a" for i in range(300)),
    "table": "|a" * 2000 + "\n" + "|-" * 2000 + "\n" + "|\n" * 5000,
    "bars": "a|b\n" * 3_000,
    "addresses": "https://" * 8_000,
    "dashes": "- " * 20_000 + "x",
    "spaces": "a" + " " * 50_000 + "b",
    "heading": "# a" + " #" * 20_000 + "x",
    "underscores": "_a" * 20_000,
    "heading of spaces": "# a" + " " * 50_000 + "b",
    "fence of spaces": "```" + " " * 50_000 + "`",
    "lines": "x\n" * 20_000,
    "lines of an item": "- a\n" + "b\n" * 20_000,
    "tildes": "~~a" * 20_000,
}


@pytest.mark.parametrize("name", LONG)
def test_long_text_is_rendered_in_no_time(tab, name):
    """Work grows with the length of the text, whatever it holds: milliseconds where a machine is free, not minutes."""
    timed = """async (text) => {
      const folder = document.querySelector("script[type=module]").src.replace("app/main.js", "");
      const { MarkdownView } = await import(folder + "markdown/render.js");
      const start = performance.now();
      new MarkdownView(document.createElement("div")).update(text);
      return performance.now() - start;
    }"""
    assert tab.page.evaluate(timed, LONG[name]) < 4000
