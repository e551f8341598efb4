"""Write the tables of docs/results from the CSV files in docs/results/tables.

    python -m benchmarks.tables            renew what stands between the markers of every page
    python -m benchmarks.tables --check    exit 1 where a page does not show what its CSV files hold

A page names a file by `<!-- table: NAME -->`; the table stands from there to `<!-- end -->`.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "results"
MARKED = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(file: Path) -> str:
    """The rows of a CSV file as a Markdown table; the first row is its head."""
    with file.open(newline="", encoding="utf-8") as lines:
        head, *rows = list(csv.reader(lines))
    for row in rows:
        if len(row) != len(head):
            raise SystemExit(f"{file}: a row of {len(row)} cells under a head of {len(head)}: {row}")
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (head, ["---"] * len(head), *rows))


def renewed(page: str) -> str:
    """The text of a page with all its tables as their files have them."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- table: {name} -->\n{rendered(PAGES / 'tables' / f'{name}.csv')}\n<!-- end -->"

    return MARKED.sub(table, page)


def main(check: bool) -> int:
    """Renew the pages, or only say which are out of date."""
    stale = []
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if renewed(text) != text:
            stale.append(path.name)
            if not check:
                path.write_text(renewed(text), encoding="utf-8")
    print(f"{'out of date' if check else 'renewed'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
