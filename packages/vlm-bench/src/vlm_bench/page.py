"""Results as one HTML page that needs nothing else: the table, each figure's account, answers with their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from vlm_bench.collect import Entry, Results
from vlm_bench.combined import about, columns, legend, own_row, published_rows
from vlm_bench.pictures import embed
from vlm_bench.published import PAPER
from vlm_bench.report import figure, plain
from vlm_bench.style import STYLE
from vlm_core.benchmark import Points

LONG = 12
"""Tables with more rows than this are folded."""


def to_html(models: Sequence[Results]) -> str:
    """The page as text."""
    titles = columns(models)
    names = escape(", ".join(model.name for model in models))
    parts = [_table(models, titles), *(_entry(m, e, titles) for m in models for e in m.entries)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{names}: benchmarks</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{names}</h1>{''.join(parts)}</body></html>\n"
    )


def _table(models: Sequence[Results], titles: Mapping[str, str]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles.values())
    own = (_own_cells(models, model, titles) for model in models)
    others = (
        f"<tr{' class=paper' if name == PAPER else ''}><th>{name}</th>{_cells(cells)}</tr>"
        for name, cells in published_rows([*titles]).items()
    )
    notes = [*legend(models), "Below the line: Table 1 of VL-Mamba (arXiv 2403.13600)."]
    return (
        f'<div class="wide"><table class="main"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody class=own>{''.join(own)}</tbody><tbody>{''.join(others)}</tbody></table></div>"
        f'<p class="notes">{"<br>".join(map(escape, notes))}</p>'
    )


def _own_cells(models: Sequence[Results], model: Results, titles: Mapping[str, str]) -> str:
    cells = []
    for name, text in zip(titles, own_row(model, [*titles]), strict=True):
        first = next((e for e in model.of(name)), None)
        link = f'<a href="#{_anchor(model, first)}">{escape(text)}</a>' if first else escape(text)
        cells.append(f"<td{'' if first and first.scored else ' class=none'}>{link}</td>")
    return f"<tr><th>{escape(model.name)}</th>{''.join(cells)}</tr>"


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _anchor(model: Results, entry: Entry) -> str:
    return f"{escape(str(model.folder), quote=True)}-{model.entries.index(entry)}".replace(" ", "_")


def _entry(model: Results, entry: Entry, titles: Mapping[str, str]) -> str:
    title = escape(titles[entry.benchmark])
    head = f'<section id="{_anchor(model, entry)}"><h2>{title}<small>{escape(model.name)}</small></h2>'
    account = "".join(f"<li>{escape(line)}</li>" for line in about(entry)[1:])
    told = f'<ul class="account">{account}</ul>'
    if not entry.scored:
        return f'{head}<p class="big none">{escape(entry.text)}</p>{told}</section>'
    data = entry.data
    protocol = f'<p class="protocol">{escape(data["protocol"])} · {escape(data["metric"])}</p>'
    big = f'<p class="big">{entry.value:.2f}{_badges(entry)}</p>'
    figures = f'<div class="pair"><div>{big}{_bars(model, entry)}</div>{_rows(data)}</div>'
    folded = f"<details><summary>{_summary(data)}</summary>{told}</details>"
    return f"{head}{protocol}{figures}{_how(data)}{folded}{_examples(data.get('examples', []))}</section>"


def _badges(entry: Entry) -> str:
    found = ["partial"] * entry.partial + ["not comparable with the paper's column"] * (
        not entry.comparable and bool(entry.data["published"])
    )
    return "".join(f'<span class="badge">{text}</span>' for text in found)


def _how(data: Mapping[str, Any]) -> str:
    """The variant and how the answers were made, as people compare it; hashes and versions are in the account."""
    known = {**data["notes"], **data["settings"]}
    told = {name: plain(v) for name, v in known.items() if not isinstance(v, Mapping) or name == "decoding"}
    shown = [f"{escape(k)}: {escape(v)}" for k, v in told.items() if "sha256" not in k and k != "benchmark"]
    return f'<p class="notes">{" · ".join(shown)}</p>'


def _summary(data: Mapping[str, Any]) -> str:
    counts = f"scored {data['scored']} of {data['expected']}, missing {data['missing']}"
    doubts = [f"{escape(what)}: {count}" for what, count in data["parse"].items() if count] or [
        "every answer could be read"
    ] * bool(data["parse"])
    warnings = [f"<b>{len(data['warnings'])} warnings</b>"] * bool(data["warnings"])
    return " · ".join([counts, *doubts, *warnings])


def _bars(model: Results, entry: Entry) -> str:
    known = {model.name: entry.value, **entry.data["published"]}
    top = 2000 if entry.data["unit"] == "points" else 100
    top = max(top, *known.values())
    return "".join(
        f'<div class="bar{" own" if n == 0 else ""}"><span>{escape(name)}</span>'
        f'<i><b style="width:{100 * value / top:.1f}%"></b></i><em>{value:.1f}</em></div>'
        for n, (name, value) in enumerate(known.items())
    )


def _rows(data: Mapping[str, Any]) -> str:
    rows, points = data["rows"], data["points"]
    names = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = (
        f"<tr><th>{escape(name)}</th>"
        + _cells(_shown(row[c], c in points) if c in row else "" for c in names)
        + "</tr>"
        for name, row in rows.items()
    )
    table = f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(body)}</table></div>'
    return f"<details><summary>{len(rows)} rows</summary>{table}</details>" if len(rows) > LONG else table


def _shown(value: float | int, points: bool) -> str:
    return figure(Points(value) if points else value)


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    sides = {
        "Right": [e for e in examples if e["credit"] >= 0.5],
        "Wrong": [e for e in examples if e["credit"] < 0.5],
    }
    return "".join(
        f'<h3 class="{name.lower()}">{name}</h3><div class="gallery">{"".join(map(_card, shown))}</div>'
        for name, shown in sides.items()
        if shown
    )


def _card(example: Mapping[str, Any]) -> str:
    source, fault = embed(example)
    picture = f'<img src="{source}" alt="" loading="lazy">' if source else ""
    absent = f'<div class="absent">{escape(fault)}</div>' if fault else ""
    side = "right" if example["credit"] >= 0.5 else "wrong"
    credit = f" <small>worth {example['credit']:.2f}</small>" if 0 < example["credit"] < 1 else ""
    read = example["read"]
    taken = (
        f"<dt>read as</dt><dd>{escape(read)}</dd>"
        if read.lower() not in ("", example["answer"].lower())
        else ""
    )
    right = f"<dt>expected</dt><dd>{escape(example['right'])}</dd>" if example["right"] else ""
    said = escape(example["answer"]) or "<i>nothing</i>"
    return (
        f'<figure title="{escape(example["id"], quote=True)}">{picture}{absent}'
        f"<figcaption><p>{escape(example['prompt'])}</p>"
        f'<dl><dt>said</dt><dd class="{side}">{said}{credit}</dd>{taken}{right}</dl></figcaption></figure>'
    )
