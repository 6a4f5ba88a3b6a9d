"""What a wheel of these packages must hold."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

HEADERS = (
    "Summary",
    "License-Expression",
    "License-File",
    "Requires-Python",
    "Keywords",
    "Description-Content-Type",
)
PYTHONS = [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)]


def faults_of_wheel(path: Path) -> list[str]:
    """One line for each thing that is missing or wrong."""
    with zipfile.ZipFile(path) as archive:
        return [f"{path.name}: {fault}" for fault in _faults(archive, path.name.split("-")[0])]


def _faults(archive: zipfile.ZipFile, module: str) -> Iterator[str]:
    files = archive.namelist()
    (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
    if strays := sorted({name.split("/")[0] for name in files} - {module, info}):
        yield f"holds more than {module}: {', '.join(strays)}"
    for name in (f"{module}/py.typed", f"{info}/licenses/LICENSE", f"{info}/sboms/sbom.cdx.json"):
        if name not in files:
            yield f"{name} is missing"
    headers = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    yield from _metadata_faults(headers)
    if f"{info}/sboms/sbom.cdx.json" in files:
        bom = json.loads(archive.read(f"{info}/sboms/sbom.cdx.json"))
        component = bom["metadata"]["component"]
        if (component["name"], component["version"]) != (headers["Name"], headers["Version"]):
            yield f"the bill of materials is of {component['name']} {component['version']}"


def _metadata_faults(headers: Message) -> Iterator[str]:
    for name in HEADERS:
        if not headers.get(name):
            yield f"metadata without {name}"
    for classifier in PYTHONS:
        if classifier not in headers.get_all("Classifier", []):
            yield f"metadata without {classifier!r}"
    urls = [entry.partition(", ")[2] for entry in headers.get_all("Project-URL", [])]
    if not urls:
        yield "metadata without a URL"
    for url in urls:
        if not url.startswith("https://"):
            yield f"{url}: a public https address is expected"
    for requirement in headers.get_all("Requires-Dist", []):
        if "@" in requirement:
            yield f"{requirement}: requires an address, not a version"
