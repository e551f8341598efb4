"""The structure of the package as a table and a picture: lines, files and imports of every folder.

    python -m benchmarks.structure eqr_ray out=docs/pictures/structure.png
    git worktree add build/old REVISION && python -m benchmarks.structure build/old/eqr_ray out=build/before.png

Folders are drawn in rows by how far they stand from those that import nothing; a red arrow is an import in a circle.
The modules at the top of the package count as one folder, `commands`.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

Arrows = Counter[tuple[str, str]]


def measure(package: Path) -> tuple[dict[str, tuple[int, int]], Arrows]:
    """({folder: (lines, files)}, {(importing, imported): imports}) of a package."""
    sizes: dict[str, tuple[int, int]] = {}
    arrows: Arrows = Counter()
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    for file in sorted(package.rglob("*.py")):
        folder = _folder(file.relative_to(package).parts[0], folders)
        lines, files = sizes.get(folder, (0, 0))
        sizes[folder] = lines + len(file.read_text().splitlines()), files + 1
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                parts = [*(node.module or "").split("."), node.names[0].name]
                if (other := _folder(parts[1], folders)) != folder:
                    arrows[folder, other] += 1
    return sizes, arrows


def _folder(name: str, folders: set[str]) -> str:
    return name if name in folders else "commands"


def heights(folders: list[str], arrows: Arrows) -> dict[str, int]:
    """The row of each folder: one above the highest that it imports, imports in a circle apart."""
    rows = dict.fromkeys(folders, 0)
    for _ in folders:
        for here, there in arrows:
            if (there, here) not in arrows:
                rows[here] = min(max(rows[here], rows[there] + 1), len(folders))
    order = sorted(set(rows.values()))
    return {folder: order.index(row) for folder, row in rows.items()}


def draw(sizes: dict[str, tuple[int, int]], arrows: Arrows, title: str, path: Path) -> None:
    """Write the PNG: a box for every folder with its lines and files, an arrow for every import between folders."""
    rows = heights(list(sizes), arrows)
    figure = Figure(figsize=(11, 1.25 * (max(rows.values()) + 1) + 0.6), layout="constrained")
    axes = figure.subplots()
    places = {}
    for row in set(rows.values()):
        names = sorted(name for name in rows if rows[name] == row)
        places |= {name: ((number + 0.5) / len(names), row) for number, name in enumerate(names)}
    for (here, there), count in arrows.items():
        circle = (there, here) in arrows
        style = {"arrowstyle": "-|>", "color": "#d1495b" if circle else "#9aa5b1", "linewidth": 0.4 + 0.08 * count}
        axes.annotate("", places[there], places[here], arrowprops={**style, "shrinkA": 16, "shrinkB": 16})
    for name, (x, y) in places.items():
        axes.add_patch(FancyBboxPatch((x - 0.085, y - 0.2), 0.17, 0.4, "round,pad=0.01", fc="#eef3f8", ec="#1b6ca8"))
        axes.text(
            x, y, f"{name}\n{sizes[name][0]:,} lines, {sizes[name][1]} files", ha="center", va="center", fontsize=8
        )
    axes.set(xlim=(0, 1), ylim=(-0.5, max(rows.values()) + 0.5), title=title)
    axes.axis("off")
    figure.savefig(path, dpi=110)


def main(package: Path, out: Path | None) -> None:
    """Print the table; draw the picture where `out` is given."""
    sizes, arrows = measure(package)
    lines, files = (sum(size[at] for size in sizes.values()) for at in (0, 1))
    for name, (own_lines, own_files) in sorted(sizes.items(), key=lambda item: -item[1][0]):
        print(f"{name:<14}{own_lines:>7,} lines {own_files:>4} files")
    circles = sorted({tuple(sorted(pair)) for pair in arrows if pair[::-1] in arrows})
    print(f"{'all':<14}{lines:>7,} lines {files:>4} files; imports in a circle: {circles or 'none'}")
    if out is not None:
        draw(sizes, arrows, f"{package.name}: {lines:,} lines in {files} files", out)


if __name__ == "__main__":
    words = dict(word.partition("=")[::2] for word in sys.argv[2:])
    main(Path(sys.argv[1]), Path(words["out"]) if "out" in words else None)
