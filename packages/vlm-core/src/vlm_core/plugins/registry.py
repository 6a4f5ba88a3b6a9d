"""Registry of components in installed packages; a broken package doesn't affect the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from vlm_core.errors import UserError, choices
from vlm_core.markup.printable import printable
from vlm_core.plugins import API
from vlm_core.plugins.hooks import PROJECT, Hooks

KINDS = ("encoder", "connector", "llm", "scan", "dataset", "benchmark", "section")
_PACKAGES = {  # package of each component, for the hint in messages about unknown names
    kind: {name: package for package, names in by_package.items() for name in names.split()}
    for kind, by_package in {
        "encoder": {"vlm-encoders": "timm open-clip transformers fused"},
        "connector": {
            "vlm-connectors": "linear mlp vss-mlp vss-l2 msc pixel-shuffle ldpv2 resampler state-query"
        },
        "llm": {"vlm-llms": "mamba transformers"},
        "scan": {"vlm-connectors": "bsm csm"},
        "dataset": {"vlm-train": "llava parquet webdataset split"},
        "benchmark": {
            "vlm-bench": "vqa-v2 gqa scienceqa textvqa pope mme mmbench mm-vet vizwiz seed-image mmbench-cn "
            "llava-bench vsr refcoco refcoco+ refcocog pope-aokvqa pope-gqa"
        },
        "section": {"vlm-train": "train"},
    }.items()
}


@dataclass(frozen=True)
class Entry:
    """One component: kind, name, config class or function, and its distribution."""

    kind: str
    name: str
    value: Any
    distribution: str
    version: str


@dataclass(frozen=True)
class Plugin:
    """An imported plugin: its distribution, and its hooks."""

    distribution: str
    version: str
    hooks: Any


class Registry:
    """Components of all installed plugins. A hook is called when its kind of component is first asked for.

    So a command that needs benchmarks alone doesn't wait for the configs of encoders and language models.
    """

    def __init__(self, plugins: Sequence[Plugin] = (), broken: Mapping[str, str] | None = None) -> None:
        self._plugins, self._broken = plugins, dict(broken or {})
        self._kinds: dict[str, dict[str, list[Entry]]] = {}

    def of_kind(self, kind: str) -> dict[str, list[Entry]]:
        """Entries of a kind by name; several where packages claim one name."""
        if kind not in self._kinds:
            entries: dict[str, list[Entry]] = {}
            for plugin in self._plugins:
                try:
                    named = _named(getattr(plugin.hooks, f"vlm_{kind}s")())
                except (Exception, SystemExit) as error:  # third-party code may raise anything
                    self._broken[plugin.distribution] = _shown(error)
                    continue
                for name, value in named.items():
                    entry = Entry(kind, name, value, plugin.distribution, plugin.version)
                    entries.setdefault(name, []).append(entry)
            self._kinds[kind] = entries
        return self._kinds[kind]

    @property
    def entries(self) -> dict[tuple[str, str], list[Entry]]:
        """Entries of all kinds by (kind, name)."""
        return {(kind, name): group for kind in KINDS for name, group in self.of_kind(kind).items()}

    @property
    def broken(self) -> dict[str, str]:
        """Errors of broken plugins by distribution, those of hooks included: all are called."""
        for kind in KINDS:
            self.of_kind(kind)
        return dict(sorted(self._broken.items()))

    def names(self, kind: str) -> list[str]:
        return sorted(self.of_kind(kind))

    def all(self) -> Iterator[Entry]:
        """All entries, sorted by kind and name."""
        for kind in KINDS:
            for _, group in sorted(self.of_kind(kind).items()):
                yield from group

    def get(self, kind: str, name: str) -> Any:
        """The class or function of a component; `UserError` for an unknown name or one that two packages use."""
        group = self.of_kind(kind).get(name, [])
        if len(group) == 1:
            return group[0].value
        if group:
            raise UserError(
                f"{kind} {name!r} is claimed by {' and '.join(e.distribution for e in group)}; uninstall one, "
                f"or switch one off: VLM_DISABLE_PLUGINS={group[-1].distribution}"
            )
        raise UserError(f"unknown {kind} {name!r}{choices(name, self.names(kind))}{self._hint(kind, name)}")

    def _hint(self, kind: str, name: str) -> str:
        """How to get an unknown component: its package, and plugins that failed to import."""
        package, present = (
            _PACKAGES.get(kind, {}).get(name),
            {e.distribution for e in self.all()} | set(self.broken),
        )
        text = f"; pip install {package} brings it" if package and package not in present else ""
        for distribution, error in self.broken.items():
            text += f"; plugin {distribution} failed to import and may hold it: {error}"
        return text


def _named(results: list[Any]) -> dict[str, Any]:
    """The results of one hook by name: dicts as returned, config classes by type name."""
    return {
        name: value
        for result in results
        for name, value in (
            result.items() if isinstance(result, dict) else ((c.type_name(), c) for c in result)
        )
    }


def _other_api(plugin: Any) -> str:
    """Why a plugin with another `VLM_API` can't be used; empty if it is compatible or declares none."""
    number = getattr(plugin, "VLM_API", API)
    if type(number) is int and number == API:
        return ""
    if type(number) is not int:
        return f"VLM_API = {number!r} is no whole number; this vlm-core has plugin API {API}"
    which = "a newer vlm-core" if number > API else "a newer version of the plugin"
    return f"made for plugin API {number}; this vlm-core has {API}: install {which}"


def _shown(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}")


def _load(point: EntryPoint) -> tuple[Any, str]:
    """The hooks of a plugin, and the reason if they can't be used."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    plugin = point.load()
    if reason := _other_api(plugin):
        return None, printable(reason)
    manager.register(plugin, name=point.name)
    manager.check_pending()
    return manager.hook, ""


def discover(disabled: frozenset[str] = frozenset()) -> Registry:
    """Import all plugins of the entry-point group `vlm` except `disabled` (plugin or distribution names)."""
    plugins: list[Plugin] = []
    broken: dict[str, str] = {}
    for point in sorted(entry_points(group=PROJECT), key=lambda p: p.name):
        distribution = point.dist.name if point.dist else point.name
        if disabled & {point.name, distribution}:
            continue
        try:
            hooks, reason = _load(point)
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            hooks, reason = None, _shown(error)
        if reason:
            broken[distribution] = reason
        else:
            plugins.append(Plugin(distribution, point.dist.version if point.dist else "?", hooks))
    return Registry(plugins, broken)


@lru_cache(maxsize=1)
def installed() -> Registry:
    """The registry of this process, without the plugins in `VLM_DISABLE_PLUGINS` (comma-separated names)."""
    names = os.environ.get("VLM_DISABLE_PLUGINS", "")
    return discover(frozenset(name.strip() for name in names.split(",") if name.strip()))
