"""Write docs/images/architecture.svg: the packages, their layers and their imports, as the code has them.

``make map``. Layers come from the import contract in pyproject.toml, arrows from the imports, purposes from the
docstrings. An arrow that other arrows already imply (a → c beside a → b → c) is left out.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from functools import cache
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
COLUMNS = (  # from the left; what stands where is taste, which layer it stands in is not
    ("app", "backend.manager"),
    ("backend.trainer_main", "backend.training", "backend.data_pipeline", "backend.utils", "backend.data"),
    ("backend.commands", "backend.export", "backend.core", "backend.run", "backend.errors"),
    ("backend.server", "backend.inferencer", "backend.inference"),
)
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 208, 64, 20, 34, 16
STYLE = """
  .page { fill: #ffffff } .box { fill: #f6f8fa; stroke: #8c959f } .name { fill: #1f2328 } .purpose { fill: #59636e }
  .arrow { stroke: #0969da; stroke-width: 1.5; fill: none } .head { fill: #0969da }
  .name { font: 600 14px ui-monospace, SFMono-Regular, Menlo, monospace }
  .purpose { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .box { fill: #151b23; stroke: #656c76 } .name { fill: #f0f6fc } .purpose { fill: #9198a1 }
    .arrow { stroke: #58a6ff } .head { fill: #58a6ff }
  }
"""


def layers() -> list[list[str]]:
    """Return the packages of each layer of the import contract from the top, the studio beside the commands."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    backend = [line.replace("|", ":").replace(" ", "").split(":") for line in contract["layers"]]
    return [["app", *backend[0]], *backend[1:]]


def imports(packages: list[str]) -> dict[str, set[str]]:
    """Return what each package imports of the others, without what follows from the rest."""
    graph = _graph()
    owner = {
        module: package for package in packages for module in {package} | graph.find_descendants(package)
    }
    direct: dict[str, set[str]] = {package: set() for package in packages}
    for module, package in owner.items():
        for imported in graph.find_modules_directly_imported_by(module):
            direct[package] |= {owner[imported]} - {package}

    def reached(package: str) -> set[str]:
        return direct[package].union(*map(reached, direct[package]))

    return {package: others.difference(*map(reached, others)) for package, others in direct.items()}


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("backend", "app", cache_dir=None)


def purpose(package: str) -> list[str]:
    """Return the first paragraph of a package's docstring, in lines as wide as a box."""
    path = ROOT / package.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return textwrap.wrap(text.split("\n\n")[0].replace("``", "").rstrip("."), 34)


def drawing() -> str:
    """Return the picture as SVG."""
    rows = layers()
    packages = [package for row in rows for package in row]
    place = {
        package: (column, row)
        for column, names in enumerate(COLUMNS)
        for package in names
        for row, layer in enumerate(rows)
        if package in layer
    }
    arrows = [_arrow(place, a, b) for a, others in imports(packages).items() for b in sorted(others)]
    width = 2 * MARGIN + len(COLUMNS) * (WIDTH + ACROSS) - ACROSS
    height = 2 * MARGIN + len(rows) * (HEIGHT + DOWN) - DOWN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            "<title>The packages of Tunesmith in layers; an arrow is an import</title>",
            f"<style>{STYLE}</style>",
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
            '<path class="head" d="M0 0 8 4 0 8z"/></marker>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
            *arrows,
            *(_box(package, *place[package]) for package in packages),
            "</svg>\n",
        ]
    )


def _corner(column: int, row: int) -> tuple[int, int]:
    return MARGIN + column * (WIDTH + ACROSS), MARGIN + row * (HEIGHT + DOWN)


def _box(package: str, column: int, row: int) -> str:
    x, y = _corner(column, row)
    texts = [f'<text class="name" x="{x + 10}" y="{y + 20}">{package.removeprefix("backend.")}</text>']
    texts += [
        f'<text class="purpose" x="{x + 10}" y="{y + 37 + 15 * number}">{escape(line)}</text>'
        for number, line in enumerate(purpose(package))
    ]
    return f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{"".join(texts)}'


def _arrow(place: dict[str, tuple[int, int]], source: str, target: str) -> str:
    """Draw down, across and down; across above the target, or below the source where boxes stand between."""
    (from_column, from_row), (to_column, to_row) = place[source], place[target]
    (from_x, from_y), (to_x, to_y) = _corner(from_column, from_row), _corner(to_column, to_row)
    if from_row == to_row:
        return _line(f"M{from_x + WIDTH} {from_y + HEIGHT // 2}H{to_x}")
    blocked = any((from_column, row) in place.values() for row in range(from_row + 1, to_row))
    turn = from_y + HEIGHT + DOWN // 3 if blocked else to_y - DOWN // 2
    middle, aside = WIDTH // 2, 10 * ((to_column > from_column) - (to_column < from_column))
    return _line(f"M{from_x + middle + aside} {from_y + HEIGHT}V{turn}H{to_x + middle - aside}V{to_y}")


def _line(path: str) -> str:
    return f'<path class="arrow" marker-end="url(#head)" d="{path}"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
