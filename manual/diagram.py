"""The diagram of the tables and of where their rows come from, as SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

COLUMN, GAP, MARGIN = 262, 68, 20
TITLE, LINE, PADDING, SPACE, BAND = 24, 16, 8, 14, 34
FONTS = "font-family: system-ui, 'Noto Sans KR', 'Apple SD Gothic Neo', 'Malgun Gothic', sans-serif"
FILLS = {"bronze": "#f6e3d3", "silver": "#e6e9ed", "gold": "#fbeebc", "live": "#d9f0e6"}
LINES = {"bronze": "#b0713a", "silver": "#77818d", "gold": "#b3901d", "live": "#2f8f68"}


@dataclass
class Box:
    """A table: its key and the tables beside it are lines below the name; `sources` are names of other boxes."""

    name: str
    column: int
    key: Sequence[str]
    beside: Sequence[str]
    sources: Iterable[str]
    top: int = field(default=0, init=False)

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]

    @property
    def height(self) -> int:
        return TITLE + LINE * (bool(self.key) + len(self.beside)) + PADDING

    @property
    def left(self) -> int:
        return MARGIN + self.column * (COLUMN + GAP)

    @property
    def middle(self) -> int:
        return self.top + self.height // 2


def svg(bands: Mapping[str, Sequence[Box]], title: str) -> str:
    """The boxes in bands one below the other, each box in its column, with arrows from the sources."""
    boxes = {box.name: box for band in bands.values() for box in band}
    shapes: list[str] = []
    bottom = MARGIN
    for name, band in bands.items():
        shapes.append(f'<text class="band" x="{MARGIN}" y="{bottom + 16}">{escape(name)}</text>')
        tops = dict.fromkeys(range(3), bottom + BAND - SPACE // 2)
        for box in band:
            box.top = tops[box.column]
            tops[box.column] += box.height + SPACE
        bottom = max(tops.values()) + SPACE
    arrows = [arrow(boxes[source], box) for box in boxes.values() for source in box.sources]
    width = 3 * COLUMN + 2 * GAP + 2 * MARGIN + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" role="img" style="{FONTS}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{width}" height="{bottom}" rx="10" fill="#fff"/>\n'
        + "\n".join([*arrows, *shapes, *map(drawn, boxes.values())])
        + "\n</svg>\n"
    )


STYLE = (
    "text { font-size: 12px; fill: #24292f } .band { font-size: 15px; font-weight: 700 } "
    ".name { font-weight: 700; font-size: 13px } .key { font-family: ui-monospace, Menlo, Consolas, monospace; "
    "font-size: 10.5px; fill: #57606a } .arrow { fill: none; stroke: #8b949e; stroke-width: 1.4 }"
)


def drawn(box: Box) -> str:
    text = [f'<text class="name" x="{box.left + 10}" y="{box.top + 18}">{escape(box.name)}</text>']
    lines = [f"PK {', '.join(box.key)}"] if box.key else []
    text += [
        f'<text class="key" x="{box.left + 10}" y="{box.top + TITLE + LINE * (nth + 1) - 4}">{escape(line)}</text>'
        for nth, line in enumerate([*lines, *(f"+ {name}" for name in box.beside)])
    ]
    return (
        f'<rect x="{box.left}" y="{box.top}" width="{COLUMN}" height="{box.height}" rx="6" fill="{FILLS[box.layer]}" '
        f'stroke="{LINES[box.layer]}"/>' + "".join(text)
    )


def arrow(source: Box, target: Box) -> str:
    """From the right side of a box to the left side of one in a later column, or to the right side in the same one."""
    start, y, to = source.left + COLUMN, source.middle, target.middle
    if target.column > source.column:
        end, bend = target.left, (target.left - start) // 2
        curve = f"M {start} {y} C {start + bend} {y} {end - bend} {to} {end - 6} {to}"
        head = f"M {end} {to} l -7 -4 v 8 z"
    else:
        curve = f"M {start} {y} C {start + 34} {y} {start + 34} {to} {start + 6} {to}"
        head = f"M {start} {to} l 7 -4 v 8 z"
    return f'<path class="arrow" d="{curve}"/><path d="{head}" fill="#8b949e"/>'
