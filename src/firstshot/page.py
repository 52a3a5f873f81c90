"""Self-contained HTML pages: figures, tables and audio players inside one file that asks nothing of the network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent / "templates"
UNTRAINED = (
    "Synthetic sounds or untrained feature extractors: this page shows that every stage works and how it reads. "
    "Its scores say nothing about DCASE or about any machine."
)


@dataclass
class Section:
    """One titled block of a page: prose that says how to read it, then figures, tables or players (HTML)."""

    title: str
    how_to_read: str
    blocks: list[Markup] = field(default_factory=list)


def render(title: str, subtitle: str, sections: Sequence[Section], warning: str = "") -> str:
    """The page as HTML. `warning` stands on top in a box; everything that is not `Markup` is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        title=title, subtitle=subtitle, sections=sections, warning=warning
    )


def vector(svg: str, alternative: str) -> Markup:
    """A figure as an image of SVG: in an <img>, so that ids of two figures cannot clash and nothing in it can run."""
    return _image("image/svg+xml", svg.encode(), alternative)


def picture(png: bytes, alternative: str) -> Markup:
    """A figure as an image of PNG."""
    return _image("image/png", png, alternative)


def player(wave: np.ndarray, rate: int, label: str) -> Markup:
    """An audio player with the clip inside as MP3, its peak brought to full scale so that quiet clips can be heard."""
    import soundfile

    peak = float(np.abs(wave).max()) or 1.0
    buffer = io.BytesIO()
    soundfile.write(buffer, (wave / peak * 0.9).astype(np.float32), rate, format="MP3", compression_level=0.3)
    return Markup('<audio controls preload="metadata" aria-label="{}" src="data:audio/mpeg;base64,{}"></audio>').format(
        label, base64.b64encode(buffer.getvalue()).decode()
    )


def card(title: str, text: str, *blocks: Markup, third: bool = False) -> Markup:
    """Blocks that belong together (a clip's numbers, spectrogram and player), under a small title.

    `third`: three of a kind stand side by side.
    """
    form = '<figure class="card{}"><figcaption><b>{}</b> {}</figcaption>{}</figure>'
    return Markup(form).format(" third" if third else "", title, text, Markup("").join(blocks))


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    sortable: bool = False,
    best: int | None = None,
    wrap: bool = False,
) -> Markup:
    """A table; with `sortable` a click on a column's head sorts by it; the row `best` is marked; `wrap`: of sentences.

    Numbers are right-aligned and sort as numbers; None shows as "n/a" and sorts last.
    """
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in header)
    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(
            Markup(' class="best" title="best of this table"') if i == best else "", Markup("").join(map(_cell, row))
        )
        for i, row in enumerate(rows)
    )
    return Markup('<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        " ".join(name for name, used in (("sortable", sortable), ("wrap", wrap)) if used), head, body
    )


def facts(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """A list of named facts."""
    return Markup("<dl>{}</dl>").format(
        Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in pairs)
    )


def _cell(value: Any) -> Markup:
    if value is None:
        return Markup('<td class="number" data-value="">n/a</td>')
    if isinstance(value, tuple):  # (number to sort by, text to show)
        return Markup('<td class="number" data-value="{}">{}</td>').format(*value)
    if isinstance(value, int | float | np.floating | np.integer):
        return Markup('<td class="number" data-value="{}">{}</td>').format(
            value, f"{value:,.2f}" if value % 1 else value
        )
    return Markup("<td>{}</td>").format(escape(value))


def _image(kind: str, content: bytes, alternative: str) -> Markup:
    return Markup('<img alt="{}" src="data:{};base64,{}">').format(
        alternative, kind, base64.b64encode(content).decode()
    )
