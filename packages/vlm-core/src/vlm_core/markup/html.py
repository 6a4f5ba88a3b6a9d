"""HTML pages that need no other file: templates in which every value is text, under a policy that runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from vlm_core.markup.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of every page: no script, nothing fetched, images only inside of the page."""


def render(package: str, template: str, values: Mapping[str, Any]) -> str:
    """The page that `template` in the folder `pages` of a package makes of `values`; it extends `layout.html`.

    Values are escaped, unless they come from `own_html`, and control characters in them become visible escapes. A
    value that a template names and nobody gave is an error.
    """
    return _environment(package).get_template(template).render({**values, "policy": own_html(POLICY)})


def own_html(text: str) -> str:
    """A piece of HTML or SVG that our own code has made: the text of others in it is escaped already."""
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
    """Text that can be seen; `Markup` is a string, too, and has been made by our own code."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else printable(value, lines=True)
