# Short commands for `just`; each is one line that works without it.

# fast tests; lint, format, types and import contracts are among them
test *args:
    uv run pytest {{args}}

# tests that need many seconds, a network or an empty environment
slow *args:
    uv run pytest -m slow {{args}}

# tests that need many minutes
xslow *args:
    uv run pytest -m xslow {{args}}

# what ruff, pyright and import-linter find
lint:
    uv run ruff check .
    uv run pyright
    uv run lint-imports

# lay out the code
format:
    uv run ruff check --fix .
    uv run ruff format .

# redraw the map, bills of materials and versions that files hold
docs:
    uv run python scripts/import_graph.py
    uv run python scripts/sbom.py
    uv run python scripts/version.py

# the newest versions as constraints
pin:
    uv run python scripts/pin.py --upgrade

# everything that must hold before a release
release-check:
    uv run python scripts/release_check.py
