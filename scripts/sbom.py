"""The bill of materials that each wheel carries (CycloneDX 1.6, PEP 770): `python scripts/sbom.py`; `--check` compares.

A wheel of these packages bundles nothing, so it names the package, and what it requires by the ranges it declares.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NAME = "sbom.cdx.json"


def sbom(project: dict[str, Any]) -> dict[str, Any]:
    """The document of a package whose pyproject.toml has the table `project`; nothing in it depends on the day."""
    name, version = project["name"], project["version"]
    purl = f"pkg:pypi/{name}@{version}"
    groups = {"": project["dependencies"]} | project.get("optional-dependencies", {})
    components = _components(groups)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
                "purl": purl,
            }
        },
        "components": components,
        "dependencies": [{"ref": purl, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _components(groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One a required distribution; `requirement` and `extra` say which versions and when."""
    properties: dict[str, list[dict[str, str]]] = {}
    for extra, texts in groups.items():
        for requirement in map(Requirement, texts):
            known = properties.setdefault(canonicalize_name(requirement.name), [])
            known.append({"name": f"extra:{extra}" if extra else "requirement", "value": str(requirement)})
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}",
            "name": name,
            "scope": "required" if any(one["name"] == "requirement" for one in values) else "optional",
            "purl": f"pkg:pypi/{name}",
            "properties": values,
        }
        for name, values in sorted(properties.items())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = []
    for path in sorted(ROOT.glob("packages/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        text = json.dumps(sbom(project), indent=1) + "\n"
        file = path.with_name(NAME)
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file.relative_to(ROOT)))
    for name in stale:
        print(f"{name}: not what pyproject.toml requires: run python scripts/sbom.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
