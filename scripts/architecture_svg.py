"""The import graph of rooms as an SVG for a phone's width, in light and dark."""

from __future__ import annotations

from typing import NamedTuple

import networkx as nx

WIDTH, MARGIN, CHIP, GAP, LEVEL, HEADER = 380, 10, 20, 6, 22, 30
LETTER = 6.4  # width of one letter in the chips' font
STYLE = """
svg { color-scheme: light dark; font: 10.5px ui-monospace, Menlo, Consolas, monospace; }
.page { fill: #ffffff; } .panel { fill: #f3f4f6; stroke: #c3c8cf; }
.room { fill: #d6e6ff; stroke: #3567b0; } .module { fill: #ffffff; stroke: #8a929c; }
.edge { stroke: #8a929c; stroke-width: 0.8; fill: none; } .cycle { stroke: #d0021b; stroke-width: 1.5; }
text { fill: #16191d; } .name { font-weight: bold; font-size: 13px; } .imports { fill: #4a525c; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } .panel { fill: #161b22; stroke: #3b434d; }
  .room { fill: #1b3a66; stroke: #6ea8fe; } .module { fill: #0d1117; stroke: #7d8590; }
  .edge { stroke: #6e7681; } .cycle { stroke: #ff6b6b; } text { fill: #e6edf3; } .imports { fill: #9da7b3; }
}
"""


class Place(NamedTuple):
    """Left edge, top edge and width of a chip."""

    x: float
    y: float
    width: float


def levels(graph: nx.DiGraph) -> list[list[str]]:
    """Nodes by their longest path from an importer that nobody imports; a cycle shares one level."""
    groups = nx.condensation(graph)
    rows = []
    for generation in nx.topological_generations(groups):
        rows.append(sorted(node for group in generation for node in groups.nodes[group]["members"]))
    return rows


def _reduced(graph: nx.DiGraph) -> list[tuple[str, str]]:
    """Arrows that no longer path implies; all of them where a cycle leaves none to leave out."""
    if nx.is_directed_acyclic_graph(graph):
        return sorted(nx.transitive_reduction(graph).edges)
    return sorted(graph.edges)


def _ordered(row: list[str], graph: nx.DiGraph, places: dict[str, Place]) -> list[str]:
    """Below the middle of what imports them, so that few arrows cross."""

    def middle(node: str) -> float:
        above = [places[one].x + places[one].width / 2 for one in graph.predecessors(node) if one in places]
        return sum(above) / len(above) if above else WIDTH / 2

    return sorted(row, key=lambda node: (round(middle(node), 3), node))


def _lines(row: list[str]) -> list[list[str]]:
    """The row's chips in lines that fit the width."""
    lines: list[list[str]] = [[]]
    used = 0.0
    for node in row:
        width = _chip_width(node) + GAP
        if used + width > WIDTH - 4 * MARGIN and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append(node)
        used += width
    return lines


def _label(node: str) -> str:
    return node.partition(".")[2] or "__init__"


def _chip_width(node: str) -> float:
    return len(_label(node)) * LETTER + 10


def _place(graph: nx.DiGraph, top: float) -> tuple[dict[str, Place], float]:
    """A place for every chip, and the y below the last."""
    places: dict[str, Place] = {}
    y = top
    for row in levels(graph):
        for line in _lines(_ordered(row, graph, places)):
            x = (WIDTH - sum(_chip_width(node) for node in line) - GAP * (len(line) - 1)) / 2
            for node in line:
                places[node] = Place(x, y, _chip_width(node))
                x += places[node].width + GAP
            y += CHIP + GAP
        y += LEVEL - GAP
    return places, y - LEVEL


def _edge(importer: Place, imported: Place, cyclic: bool) -> str:
    x1, y1 = importer.x + importer.width / 2, importer.y + CHIP
    x2, y2 = imported.x + imported.width / 2, imported.y
    bend = (y2 - y1) / 2
    path = f"M{x1:.1f} {y1:.1f} C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    return f'<path class="edge{" cycle" if cyclic else ""}" d="{path}" marker-end="url(#arrow)"/>'


def _chip(node: str, place: Place, folder: bool) -> str:
    box = f'x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{CHIP}" rx="4"'
    text = f'x="{place.x + place.width / 2:.1f}" y="{place.y + 14:.1f}" text-anchor="middle"'
    return f'<rect class="{"room" if folder else "module"}" {box}/><text {text}>{_label(node)}</text>'


def _panel(package: str, graph: nx.DiGraph, folders: set[str], top: float) -> tuple[list[str], float]:
    """One package: its name, what it imports, its rooms from top to bottom."""
    inside = graph.subgraph(node for node in graph if node.partition(".")[0] == package and node != package)
    places, bottom = _place(inside, top + HEADER)
    height = bottom + MARGIN - top
    size = f'x="{MARGIN}" y="{top:.1f}" width="{WIDTH - 2 * MARGIN}" height="{height:.1f}" rx="8"'
    lines = [f'<rect class="panel" {size}/>']
    lines.append(f'<text class="name" x="{2 * MARGIN}" y="{top + 19:.1f}">{package}</text>')
    above = ", ".join(_imports(package, graph))
    if above:
        at = f'x="{WIDTH - 2 * MARGIN}" y="{top + 19:.1f}" text-anchor="end"'
        lines.append(f'<text class="imports" {at}>imports {above}</text>')
    in_cycle = {pair for group in nx.strongly_connected_components(inside) for pair in _pairs(group)}
    lines += [_edge(places[a], places[b], (a, b) in in_cycle) for a, b in _reduced(inside)]
    lines += [_chip(node, places[node], node in folders) for node in sorted(places)]
    return lines, top + height


def _pairs(group: set[str]) -> set[tuple[str, str]]:
    return {(a, b) for a in group for b in group if a != b}


def _imports(package: str, graph: nx.DiGraph) -> list[str]:
    return sorted({b.partition(".")[0] for a, b in graph.edges if a.partition(".")[0] == package} - {package})


def draw(rooms: nx.DiGraph, packages: list[str], folders: set[str]) -> str:
    """The picture of `rooms`, one panel a package, importers above what they import."""
    body: list[str] = []
    y: float = MARGIN
    for package in packages:
        lines, y = _panel(package, rooms, folders, y)
        body += lines
        y += MARGIN
    size = f'width="{WIDTH}" height="{y:.0f}" viewBox="0 0 {WIDTH} {y:.0f}"'
    arrow = '<marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>Packages and their rooms; an arrow points from the importer down to what it imports</title>",
            f"<style>{STYLE}</style>",
            f'<defs>{arrow}<path class="edge" d="M0 0 L6 3 L0 6"/></marker></defs>',
            f'<rect class="page" width="{WIDTH}" height="{y:.0f}"/>',
            *body,
            "</svg>\n",
        ]
    )
