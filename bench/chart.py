"""Groups of horizontal bars → SVG text. Pure; readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from bench.report import number

_WIDTH, _LABELS, _VALUES = 760, 250, 110
_BAR, _STEP, _HEADING = 14, 22, 34
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .heading { font-weight: 600 }
  .note { fill: #57606a; font-size: 12px }
  .ours { fill: #0969da }
  .other { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #8b949e }
    .ours { fill: #4493f8 }
    .other { fill: #6e7681 }
  }
"""


class Bar(msgspec.Struct, frozen=True):
    """ours: drawn in the colour of what is measured, not in that of what it is compared with."""

    label: str
    value: float
    ours: bool


class Group(msgspec.Struct, frozen=True):
    """Bars on one scale, from zero."""

    heading: str
    bars: Sequence[Bar]


def svg(groups: Sequence[Group], note: str) -> str:
    """A whole SVG document."""
    parts: list[str] = []
    y = 0
    for group in groups:
        y += _HEADING
        parts.append(f'<text class="heading" x="0" y="{y - 10}">{escape(group.heading)}</text>')
        scale = (_WIDTH - _LABELS - _VALUES) / (max(bar.value for bar in group.bars) or 1)
        for bar in group.bars:
            length = max(1.0, bar.value * scale)
            middle = y + _BAR - 3
            parts += [
                f'<text x="{_LABELS - 10}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>',
                f'<rect class="{"ours" if bar.ours else "other"}" x="{_LABELS}" y="{y}" width="{length:.1f}" '
                f'height="{_BAR}" rx="2"/>',
                f'<text x="{_LABELS + length + 8:.1f}" y="{middle}">{number(bar.value)}</text>',
            ]
            y += _STEP
    y += _HEADING
    parts.append(f'<text class="note" x="0" y="{y - 14}">{escape(note)}</text>')
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'aria-label="Benchmarks">\n<style>{_STYLE}</style>\n{body}\n</svg>\n'
    )
