"""Self-contained HTML pages: templates escape every value, and a Content-Security-Policy forbids scripts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from vlm_core.markup.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of every page: no script, nothing fetched, images only inline."""


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """Render `template` of the package's folder `pages` with `values`; templates extend `layout.html`.

    Values are escaped, except those of `own_html`, and control characters become visible escapes. A value that the
    template uses but `values` lacks raises `jinja2.UndefinedError`.
    """
    return _environment(package).get_template(template).render({**values, "policy": own_html(POLICY)})


def own_html(text: str) -> str:
    """Mark HTML or SVG of our own code as safe; foreign text in it must be escaped already."""
    from markupsafe import Markup

    return Markup(text)


@cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "pages"), PackageLoader("vlm_core", "pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _shown(value: Any) -> Any:
    """The value as printable text; `Markup`, which our own code has made, is unchanged."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else printable(value, lines=True)
