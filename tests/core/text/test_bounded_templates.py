"""Within their bounds chat templates are rendered as jinja2's own sandbox renders them."""

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlm_core.errors import UserError
from vlm_core.text.jinja_sandbox import render_jinja

CALL = {"function": {"name": "f", "arguments": {"a": 1, "b": [1, 2]}}}
MESSAGES = [
    {"role": "system", "content": " s "},
    {"role": "user", "content": "hi <b> 'q'", "x": None},
    {"role": "assistant", "content": "yo", "tool_calls": [CALL]},
]
TEMPLATES = [
    "{{ messages|length }}{{ messages[1:]|length }}{{ messages[::-1]|map(attribute='role')|join(',') }}",
    "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ m.content|trim }}"
    "{% if m.nope is defined %}x{% endif %}{% if m.x is none %}n{% endif %}"
    "{% if m.nope is string %}s{% endif %}{% if m['nope'] == 'a' %}{% endif %}{% endfor %}",
    "{% set ns = namespace(a=0, l=[]) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}"
    "{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.a }}{{ ns.l }}{{ ns.l|first }}"
    "{{ ns.l|last }}",
    "{{ messages|selectattr('role','equalto','user')|list|length }}"
    "{{ messages|rejectattr('x','defined')|list|length }}",
    "{% for m in messages if m.role != 'system' %}{{ m.role ~ ': ' ~ m.content }}{% else %}none{% endfor %}",
    "{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ 1 < 2 < 3 }}{{ [1,2]==[1,2] }}{{ not x }}"
    "{{ x is defined }}{{ x }}|{{ (nothing is defined) }}",
    "{{ 'a,b'.split(',')|join('-') }}{{ 'ab'.upper() }}{{ 'x'.join(['a','b']) }}"
    "{{ ' a'.strip().startswith('a') }}",
    "{% macro f(a, b='d') %}[{{ a }}{{ b }}{{ caller() if caller }}]{% endmacro %}{{ f(1) }}"
    "{{ f(1, b=2) }}{% call f(3) %}inner{% endcall %}",
    "{{ {'a':1}|items|list }}{{ {'b':1,'a':2}|dictsort }}{{ [3,1,2]|sort|reverse|list }}"
    "{{ [1,2,3]|sum }}{{ [1,2,3]|max }}{{ 'a'|default('b') }}{{ none|default('b', true) }}",
    "{% for k, v in {'a':1}.items() %}{{ k }}{{ v }}{% endfor %}{% for a in range(5) %}"
    "{% if a==2 %}{% continue %}{% endif %}{% if a==4 %}{% break %}{% endif %}{{ a }}"
    "{% endfor %}",
    "{{ messages[0].content[:2] }}{{ messages[-1]['role'] }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 3 }}"
    "{{ -1 }}{{ 1.5|round }}{{ '%s %d'|format('a', 3) }}{{ '%s' % 'x' }}",
    "{% set x %}block {{ 1 }}{% endset %}{{ x }}{% filter upper %}abc{% endfilter %}"
    "{{ 'abc'|replace('b','c') }}{{ 'a\nb'|indent(2) }}{{ cycler('a','b').next() }}",
    "{{ messages|groupby('role')|map('first')|list }}{{ 'a b'|title }}"
    "{{ ['a','A']|unique|list }}{{ range(3)|list }}{{ [1,2,3,4]|batch(2)|list }}{{ 5 is even }}"
    "{{ 5 is divisibleby 5 }}{{ 'a' is in(['a']) }}",
    "{% if messages[0].content is string and messages[0].content is not mapping and messages is iterable %}"
    "y{% endif %}{{ ['a']|map('upper')|list }}"
    "{{ (messages|map(attribute='role'))|list|length }}",
    "{% for m in messages recursive %}{{ m.role }}{% endfor %}{{ '{}'.format(3) }}{{ 'a'|e }}"
    "{{ '<'|escape }}{{ true and 'x' or 'y' }}{{ loop is defined }}",
    "{% for m in messages %}{% if m.reasoning_content is string %}r{% endif %}{% if m.a.b is not defined %}u{% endif %}"
    "{% if m.nope is not none and m.nope != 'x' %}{{ m.content }}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("source", TEMPLATES)
def test_as_without_bounds(source):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    try:
        expected = plain.from_string(source).render(messages=MESSAGES)
    except Exception as error:
        with pytest.raises(UserError, match=str(error)):
            render_jinja(source, {"messages": MESSAGES})
    else:
        assert render_jinja(source, {"messages": MESSAGES}) == expected


def test_long_conversations_are_within_the_bounds():
    """Two thousand turns, and a text of a million characters, each compared and measured as templates do."""
    source = (
        "{% for m in messages %}{% if loop.index0 == messages | length - 1 and '<think>' in m.content %}{% endif %}"
        "{% if m.role == 'user' %}{{ '<u>' + m.content | trim }}{% else %}{{ '<a>' ~ m.content }}{% endif %}"
        "{% endfor %}"
    )
    turns = [{"role": ("user", "assistant")[i % 2], "content": "word " * 100} for i in range(2000)]
    assert len(render_jinja(source, {"messages": turns})) == 2000 * 503 - 1000
    assert (
        len(render_jinja(source, {"messages": [{"role": "user", "content": "x" * 1_000_000}]})) == 1_000_003
    )
