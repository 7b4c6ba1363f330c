"""One table, three ways to show it: plain text, Markdown, rich; HTML is the page's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header and rows of strings; the first column is left-aligned, numbers right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def has_header(self) -> bool:
        return any(self.header)

    def text(self) -> str:
        """Aligned columns for a terminal or a log."""
        lines = [self.header, *self.rows] if self.has_header else list(self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        shown = []
        for line in lines:
            cells = [
                cell.ljust(width) if i == 0 or not self.has_header else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            shown.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join([self.title, *shown])

    def markdown(self) -> str:
        """A GitHub table under a bold title."""

        def line(cells: tuple[str, ...]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = ["---"] + ["---:" if self.has_header else "---"] * (len(self.header) - 1)
        body = [line(row) for row in self.rows]
        return "\n".join(
            [f"**{self.title}**", "", line(self.header), "| " + " | ".join(rule) + " |", *body]
        )

    def rich(self) -> Any:
        """A rich.table.Table."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(self.title),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_header=self.has_header,
            pad_edge=False,
        )
        for i, name in enumerate(self.header):
            table.add_column(name, justify="left" if i == 0 or not self.has_header else "right")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table
