"""Chat templates that run for long, grow large or escape: `CASES` put one into a model folder, which then uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

TEMPLATE = Path("llm", "chat_template.jinja")
DOUBLED = "{% set x = namespace(s=[1]) %}{% for i in range(60) %}{% set x.s = [x.s, x.s] %}{% endfor %}"
SORTED = (
    "{% set s = range(90000) | list %}{% for i in range(9000) %}"
    "{% set x = s | sort | reverse | list %}{% endfor %}"
)
LONG = "{% set s = 'a' * 4000000 %}{% for i in range(100000) %}"


def chat(source: str) -> Callable[[Path], None]:
    """A chat template, and a spec that uses it."""

    def damage(folder: Path) -> None:
        (folder / TEMPLATE).write_text(source)
        spec = yaml.safe_load((folder / "spec.yaml").read_text())
        (folder / "spec.yaml").write_text(yaml.safe_dump({**spec, "template": "tokenizer"}))

    return damage


SOURCES = {
    "endless loop": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": (
        "{% for i in range(999) %}{% for j in range(999) %}{% for k in range(999) %}{% endfor %}"
        "{% endfor %}{% endfor %}"
    ),
    "long string": "{{ 'a' * 10**9 }}",
    "doubled string": (
        "{% set x = namespace(s='aaaa') %}{% for i in range(60) %}{% set x.s = x.s + x.s %}{% endfor %}"
        "{{ x.s }}"
    ),
    "doubled list": DOUBLED + "{{ x.s }}",
    "doubled list as JSON": DOUBLED + "{{ x.s | tojson }}",
    "doubled list compared": (
        "{% set x = namespace(s=[1], t=[1]) %}{% for i in range(40) %}{% set x.s = [x.s, x.s] %}"
        "{% set x.t = [x.t, x.t] %}{% endfor %}{{ x.s == x.t }}"
    ),
    "large number": "{{ 10 ** 10 ** 10 }}",
    "multiplied numbers": (
        "{% set x = namespace(n=7) %}{% for i in range(99999) %}{% set x.n = x.n * x.n %}{% endfor %}"
        "{{ x.n }}"
    ),
    "macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(50) }}"
    ),
    "recursive loop": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "searches long strings": LONG + "{% if ('b' ~ i) in s %}{% endif %}{% endfor %}",
    "compares long strings": (
        "{% set s = 'a' * 4000000 + 'b' %}{% set t = 'a' * 4000000 + 'c' %}{% for i in range(90000) %}"
        "{% if s == t %}{% endif %}{% endfor %}"
    ),
    "sorts a lot": SORTED,
    "wraps a lot": (
        "{% for i in range(9000) %}{% set x = ('a ' * 90000) | wordwrap(2) | title | wordcount %}{% endfor %}"
    ),
    "nested brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "nested lists": "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
    "nested ifs": "{% if 1 %}" * 15_000 + "{% endif %}" * 15_000,
    "nested loops deep": "{% for i in [1] %}" * 500 + "x" + "{% endfor %}" * 500,
    "long chain of filters": "{{ 'a'" + " | upper" * 25_000 + " }}",
    "long sum": "{{ 1" + " + 1" * 50_000 + " }}",
    "long chain of nots": "{{ " + "not " * 50_000 + "1 }}",
    "escapes by attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "escapes by a cycler": "{{ cycler.__init__.__globals__.os.system('id') }}",
    "escapes by attr": "{{ '' | attr('__class__') }}",
    "escapes by format": "{{ '{0.__class__}'.format(1) }}",
    "wide format": "{{ '%999999999d' | format(1) }}",
    "wide format by width": "{{ '{:>{}}'.format('a', 999999999) }}",
    "includes": "{% include '/etc/passwd' %}",
    "imports": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends 'x' %}",
    "broken": "{% if %}",
    "of nothing said": "hello",
    "that repeats": "{{ messages }}{{ messages }}",
    "of 10 MB": "x" * 10_000_000,
    "lipsum": "{{ lipsum(n=999999, max=999999) }}",
    "joins a lot": "{{ range(99999) | map('string') | join('a' * 99999) }}",
    "batches a lot": "{% for x in range(9) | batch(10**9, 'x') %}{{ x }}{% endfor %}",
    "slices a lot": "{% for x in range(9) | slice(10**9) %}{% endfor %}",
    "centres a lot": "{{ 'a' | center(10**9) }}",
    "indents a lot": "{{ ('a\\n' * 99999) | indent(99999) }}",
    "pprint": DOUBLED + "{{ x.s | pprint }}",
    "zfill": "{{ 'a'.zfill(10**9) }}{{ 'a'.ljust(10**9) }}{{ 'a'.expandtabs(10**9) }}",
    "tabs": "{{ ('\\t' * 999999).expandtabs(999999) }}",
    "bytes": "{{ 'a'.encode() * 10**9 }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "strftime": "{{ strftime_now('%Y' * 9999999) }}",
    "raise": "{{ raise_exception('no') }}",
}
CASES: dict[str, Callable[[Path], None]] = {
    f"template {name}": chat(source) for name, source in SOURCES.items()
}
