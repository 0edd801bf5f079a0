"""The report as one HTML file with everything in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from ..attribution import BY_SPACE, BY_TIME, KEPT
from .collect import Sample
from .pictures import COLORS, NAMES, caption, scaled, tinted

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #20242a; background: #fff; max-width: 1100px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td { padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid #e3e6ea; }
td + td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; display: block; border-radius: 4px; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { color: #59616b; font-size: .9rem; }
.pair { position: relative; } .pair .raw { position: absolute; inset: 0; opacity: 0; }
.pair:hover .raw { opacity: 1; }
.swatch { display: inline-block; width: 1rem; height: 1rem; margin: 0 .4rem 0 1.2rem; vertical-align: -2px;
          border: 1px solid #20242a; }
.swatch:first-child { margin-left: 0; }
.note { background: #fff6e0; border-left: 4px solid #e69f00; padding: .5rem 1rem; }
dt { font-weight: 600; } dd { margin: 0 0 .8rem; white-space: pre-wrap; }
"""


def page(
    title: str,
    rows: Sequence[tuple[str, str]],
    samples: list[Sample],
    chart: bytes,
    answers: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    """The HTML text. `rows` is the table, `answers` are (question, answer), `notes` stand at the top."""
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    parts += ["<table>", *(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows), "</table>"]
    if answers:
        parts += ["<h2>Answers</h2>", "<dl>"]
        parts += [f"<dt>{escape(q)}</dt><dd>{escape(a)}</dd>" for q, a in answers] + ["</dl>"]
    if samples:
        parts += ["<h2>What was kept, over time</h2>", _img(chart, "png", "shares of the tokens over time")]
        parts += ["<h2>Frames</h2>", f"<p>{_legend()}. Point at a frame to see it as it came.</p>"]
        parts += ['<div class="frames">', *map(_figure, samples), "</div>"]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n'


def _figure(sample: Sample) -> str:
    image = scaled(sample.image)
    shown = _img(_jpeg(tinted(image, sample.fate)), "jpeg", f"tokens at {sample.seconds:.1f} s")
    raw = _img(_jpeg(image), "jpeg", "the frame as it came", "raw")
    return f'<figure><div class="pair">{shown}{raw}</div><figcaption>{escape(caption(sample))}</figcaption></figure>'


def _legend() -> str:
    swatches = []
    for code in (KEPT, BY_TIME, BY_SPACE):
        color = "#fff" if code == KEPT else "rgb({}, {}, {})".format(*COLORS[code])
        swatches.append(f'<span class="swatch" style="background: {color}"></span>{NAMES[code]}')
    return "".join(swatches)


def _img(data: bytes, kind: str, alt: str, css: str = "") -> str:
    name = f' class="{css}"' if css else ""
    return f'<img{name} alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _jpeg(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=88)
    return out.getvalue()
