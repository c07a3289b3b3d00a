"""Lines, marks and axes of the report's charts, as SVG text; whatever text goes in comes out escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from markupsafe import Markup

WIDTH = 1040
PALETTE = ("#3b6fd4", "#0f9d8c", "#c2571a", "#8a54c7", "#b3860b", "#c23a6b", "#4f7d1f", "#5a6472", "#1f8fc4", "#a0522d")
"""Version colours, apart in hue and in lightness; a version keeps its colour in every chart."""


def colour_of(version: int) -> str:
    return PALETTE[(version - 1) % len(PALETTE)]


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """One element; `class_` is class, `_` in other names is `-`; floats are rounded to a tenth of a pixel."""
    spelled = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{spelled}>{content}</{name}>" if content else f"<{name}{spelled}/>"


def _number(value: object) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, *, class_: str = "", anchor: str = "start", fill: str | None = None) -> str:
    return tag("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor, fill=fill)


def hint(words: str) -> str:
    """What a browser shows when the pointer rests on the element."""
    return tag("title", escape(words))


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def path(points: Sequence[tuple[float, float]], **attributes: object) -> str:
    d = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("path", d=d, fill="none", **attributes)


def svg(height: float, parts: Iterable[str], *, label: str) -> Markup:
    """The finished drawing; `label` is what a screen reader says."""
    # Every part came out of `tag` and `text`, which escape what they are given.
    inner = "\n".join(parts)
    return Markup(  # noqa: S704
        tag("svg", inner, viewBox=f"0 0 {WIDTH} {_number(float(height))}", role="img", aria_label=label)
    )


@dataclass(frozen=True)
class Scale:
    """A straight mapping of numbers to pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / ((self.high - self.low) or 1.0) * (self.last - self.first)


@dataclass(frozen=True)
class TimeScale:
    """Moments to pixels."""

    start: datetime
    end: datetime
    first: float
    last: float

    def __call__(self, moment: datetime) -> float:
        share = (moment - self.start) / (self.end - self.start)
        return self.first + min(max(share, 0.0), 1.0) * (self.last - self.first)

    def months(self) -> list[datetime]:
        """The first moments of the months within."""
        moment = datetime(self.start.year, self.start.month, 1, tzinfo=UTC)
        found = []
        while moment < self.end:
            if moment >= self.start:
                found.append(moment)
            moment = next_month(moment)
        return found


def next_month(moment: datetime) -> datetime:
    return datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)


def month_axis(scale: TimeScale, top: float, bottom: float) -> list[str]:
    """A faint line at each month's begin and its name in the middle of the month."""
    parts = []
    for month in scale.months():
        x = scale(month)
        parts.append(line(x, top, x, bottom, class_="grid"))
        middle = (x + scale(min(next_month(month), scale.end))) / 2
        if scale(min(next_month(month), scale.end)) - x > 24:
            parts.append(text(middle, bottom + 16, f"{month:%b}", class_="tick", anchor="middle"))
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    span = (high - low) / max(about, 1)
    size = 10.0 ** int(f"{span:e}".split("e")[1]) if span > 0 else 1.0
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= span)
    first = -(-low // step) * step
    return [round(first + step * i, 10) for i in range(int((high - first) / step + 1e-9) + 1)]
