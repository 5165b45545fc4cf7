"""`report.html`: what a store holds and what was not taken, for people; one file that needs no network.

It follows from the store alone, so that equal stores have equal reports.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any, TextIO

from medssl_monai.page import html_page
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.thumbnails import histogram, picture, sample
from medssl_monai.store.verdicts import FLAGS, Outcome, Verdict

STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #16202a; --quiet: #5b6875; --line: #dde2e8;
  --accepted: #1a7f4b; --repaired: #a86200; --rejected: #b3261e; --bar: #3d6fb4; }
@media (prefers-color-scheme: dark) {
  :root { --back: #101418; --card: #181e25; --text: #e8edf2; --quiet: #95a3b1; --line: #2b343e;
    --accepted: #4cc38a; --repaired: #f0a63c; --rejected: #f2716b; --bar: #7fa9e0; } }
body { padding: 24px; max-width: 1280px; background: var(--back); color: var(--text); font-size: 14px;
  line-height: 1.45; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 0 0 12px; color: var(--quiet); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px;
  min-width: 104px; }
.tile b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; } .tile span { color: var(--quiet); }
.share { display: flex; height: 8px; border-radius: 4px; overflow: hidden; background: var(--line); }
.share i { display: block; }
form { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; position: sticky; top: 0; padding: 10px 0;
  background: var(--back); z-index: 1; }
input, select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px;  padding: 6px 8px; }
input { flex: 1 1 220px; min-width: 0; } select { max-width: 100%; }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 6px 12px; cursor: pointer; }
#shown { color: var(--quiet); margin-left: auto; }
.series { display: grid; grid-template-columns: 132px minmax(200px, 1fr) minmax(180px, 1fr) 232px; gap: 16px;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; margin: 0 0 10px; }
.series[hidden] { display: none; } .series > * { min-width: 0; }
.picture { width: 132px; height: 132px; background: #000; display: flex; align-items: center; justify-content: center;
  border-radius: 4px; color: #888; font-size: 12px; }
.picture img { display: block; max-width: 132px; max-height: 132px; }
code { font: 12px ui-monospace, "Cascadia Mono", Menlo, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 12px; margin: 6px 0 0; } dt { color: var(--quiet); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.badge { display: inline-block; border-radius: 10px; padding: 0 9px; font-size: 12px; font-weight: 600;
  color: var(--card); }
.accepted { background: var(--accepted); }
.repaired { background: var(--repaired); }
.rejected { background: var(--rejected); }
.flag { display: inline-block; border: 1px solid var(--line); border-radius: 10px; padding: 0 8px; margin: 2px 2px 0 0;
  font-size: 12px; cursor: help; }
ul { margin: 6px 0 0; padding-left: 18px; }
svg { display: block; } svg path { fill: var(--bar); } svg text { fill: var(--quiet); font-size: 10px; }
svg line { stroke: var(--line); }
table { width: 100%; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; color: var(--quiet); }
@media (max-width: 860px) {
  .series { grid-template-columns: 132px 1fr; }
  .series > :nth-child(n+3) { grid-column: 1 / -1; }
  form { position: static; } body { padding: 14px; }
}
@media (max-width: 480px) { .series { grid-template-columns: 96px 1fr; gap: 10px; }
  .picture { width: 96px; height: 96px; } .picture img { max-width: 96px; max-height: 96px; height: auto; } }
@media print { form { display: none; } .series { break-inside: avoid; } }
"""

BODY = """<h1>Ingestion report</h1>
<p>$subtitle</p>
<div class="tiles">$tiles</div>
<div class="share" title="files accepted, repaired, rejected">$share</div>
<h2>Series in the store</h2>
<form id="filters" autocomplete="off">
<input id="text" type="search" placeholder="Search series, patient, body part, kernel, flag …" aria-label="Search">
<select id="outcome" aria-label="Verdict"><option value="">every verdict</option>$outcomes</select>
<select id="modality" aria-label="Modality"><option value="">every modality</option>$modalities</select>
<select id="plane" aria-label="Plane"><option value="">every plane</option>$planes</select>
<select id="flag" aria-label="Flag"><option value="">every flag</option>$flags</select>
<button type="button" id="clear">Clear</button>
<span id="shown"></span>
</form>
<main>$series</main>
<p id="none" hidden>No series fits all of this.</p>
<h2>Not taken</h2>
$rejected
<script>
"use strict";
const all = [...document.querySelectorAll(".series")];
const form = document.getElementById("filters"), shown = document.getElementById("shown");
function filter() {
  const wanted = Object.fromEntries(["text", "outcome", "modality", "plane", "flag"].map(
    name => [name, document.getElementById(name).value.trim().toLowerCase()]));
  let count = 0;
  for (const one of all) {
    const fits = ["outcome", "modality", "plane"].every(n => !wanted[n] || one.dataset[n].toLowerCase() === wanted[n])
      && (!wanted.flag || one.dataset.flags.split(" ").includes(wanted.flag))
      && wanted.text.split(/\\s+/).every(word => one.dataset.text.includes(word));
    one.hidden = !fits;
    count += fits;
  }
  document.getElementById("none").hidden = count > 0 || all.length === 0;
  shown.textContent = count + " of " + all.length + " series";
}
form.addEventListener("input", filter);
document.getElementById("clear").addEventListener("click", () => { form.reset(); filter(); });
form.addEventListener("submit", event => event.preventDefault());
filter();
</script>"""
"""A `string.Template`; what is put in is already HTML."""

REPORT_NAME = "report.html"

MAX_PICTURES = 2000
"""Series with a picture and a histogram; a page of more would not open (about 8 kB each)."""

CARDS = "<!-- the series -->"
"""Where the series go into the page."""

MAX_NAMES = 100
"""Pseudonyms listed for one reason."""


def write_report(store: SliceStore, max_pictures: int = MAX_PICTURES) -> Path:
    """Writes the report into the store's folder, unless the one there speaks of the same content.

    Args:
        store: a finished store.
        max_pictures: series shown with a picture and a histogram; further ones have their row only.

    Returns:
        The file's path.
    """
    path = store.path / REPORT_NAME
    digest = _digest(store, max_pictures)
    if path.is_file() and digest.encode() in path.read_bytes()[:2000]:
        return path
    draft, cards = (store.path / f".draft-{name}" for name in (REPORT_NAME, "cards.html"))
    try:
        with cards.open("w", encoding="utf-8") as file:
            found = _write_cards(SliceStore(store.path, open_arrays=1), max_pictures, file)
        before, after = _page(store, found, max_pictures, digest).split(CARDS)
        with draft.open("w", encoding="utf-8") as file, cards.open(encoding="utf-8") as written:
            file.write(before)
            shutil.copyfileobj(written, file)
            file.write(after)
        draft.replace(path)
    finally:
        cards.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
    return path


def _digest(store: SliceStore, max_pictures: int) -> str:
    verdicts = (store.path / "verdicts.jsonl").read_bytes()
    page = html_page("", BODY, style=STYLE)
    parts = (store.fingerprint.encode(), hashlib.sha256(verdicts).digest(), page.encode(), str(max_pictures).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@dataclass
class _Found:
    """What the head of the page says of the series below it."""

    series: int = 0
    patients: set[str] = field(default_factory=set)
    modalities: Counter[str] = field(default_factory=Counter)
    planes: Counter[str] = field(default_factory=Counter)


def _write_cards(store: SliceStore, max_pictures: int, file: TextIO) -> _Found:
    """One series after another, so that memory holds one."""
    verdicts = {one.series_id: one for one in store.verdicts if one.outcome is not Outcome.REJECTED}
    found = _Found()
    for rows in store.each_series():
        first = rows[0]
        file.write(_series(store, verdicts[first["series_id"]], rows, found.series < max_pictures) + "\n")
        found.series += 1
        found.patients.add(first["patient"])
        found.modalities[first["modality"]] += 1
        found.planes[first["plane"]] += 1
    if not found.series:
        file.write("<p>None.</p>")
    return found


def _page(store: SliceStore, found: _Found, max_pictures: int, digest: str) -> str:
    """The page, with `CARDS` where the series go."""
    verdicts = store.verdicts
    files = Counter[str]()
    for one in verdicts:
        files[one.outcome.value] += one.files
    without = f"; pictures of the first {max_pictures}" if found.series > max_pictures else ""
    taken = [one for one in verdicts if one.outcome is not Outcome.REJECTED]
    body = Template(BODY).substitute(
        subtitle=f"Fingerprint <code>{store.fingerprint[:16]}</code>. Names are pseudonyms{without}.",
        tiles=_tiles(store, found, files),
        share=_share(files),
        outcomes=_options(Counter(one.outcome.value for one in taken)),
        modalities=_options(found.modalities),
        planes=_options(found.planes),
        flags=_options(Counter(flag for one in taken for flag in one.flags)),
        series=CARDS,
        rejected=_rejected([one for one in verdicts if one.outcome is Outcome.REJECTED]),
    )
    digested = f'<meta name="medssl-digest" content="{digest}">\n'
    return html_page("Ingestion report", body, style=STYLE, head=digested)


def _tiles(store: SliceStore, found: _Found, files: Counter[str]) -> str:
    counts = {
        "patients": len(found.patients),
        "series": found.series,
        "slices": len(store),
        "files": files.total(),
        **{f"files {outcome.value}": files[outcome.value] for outcome in Outcome},
    }
    return "".join(f'<div class="tile"><b>{count:,}</b><span>{name}</span></div>' for name, count in counts.items())


def _share(files: Counter[str]) -> str:
    whole = max(1, files.total())
    return "".join(
        f'<i class="{one.value}" style="width:{100 * files[one.value] / whole:.2f}%"></i>' for one in Outcome
    )


def _options(counts: Counter[str]) -> str:
    return "".join(
        f'<option value="{escape(value)}">{escape(value.replace("_", " "))} ({count})</option>'
        for value, count in sorted(counts.items())
        if value
    )


def _series(store: SliceStore, verdict: Verdict, rows: Sequence[dict[str, Any]], with_picture: bool) -> str:
    """One series: picture, identity and geometry, verdict, histogram."""
    first = rows[0]
    volume = sample(store, rows) if with_picture else None
    words = [first[name] for name in ("series_id", "patient", "modality", "plane", "body_part", "kernel")]
    words += [verdict.outcome.value, *verdict.flags]
    data = {
        "outcome": verdict.outcome.value,
        "modality": first["modality"],
        "plane": first["plane"],
        "flags": " ".join(verdict.flags),
        "text": " ".join(words).lower(),
    }
    attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in data.items())
    shown = "no picture" if volume is None else picture(volume[len(volume) // 2], first)
    bars = "" if volume is None else histogram(volume, first["modality"])
    flags = "".join(
        f'<span class="flag" title="{escape(FLAGS.get(flag, ""))}">{escape(flag.replace("_", " "))}</span>'
        for flag in verdict.flags
    )
    repairs = "".join(f"<li>{escape(repair)}</li>" for repair in verdict.repairs)
    badge = f'<span class="badge {verdict.outcome.value}">{verdict.outcome.value}</span>'
    return (
        f'<section class="series" {attributes}><div class="picture">{shown}</div>'
        f"<div><code>{escape(first['series_id'])}</code>{_facts(rows)}</div>"
        f"<div>{badge} {verdict.files} file{'s' * (verdict.files != 1)}<div>{flags}</div>"
        f"{f'<ul>{repairs}</ul>' if repairs else ''}</div><div>{bars}</div></section>"
    )


def _facts(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]
    steps = sorted({round(row["slice_spacing_mm"], 2) for row in rows if row["slice_spacing_mm"] is not None})
    step = "?" if not steps else f"{steps[0]:g}" if len(steps) == 1 else f"{steps[0]:g} to {steps[-1]:g}"
    heights = [row["z_mm"] for row in rows if row["z_mm"] is not None]
    spacing = [first["spacing_row_mm"], first["spacing_column_mm"]]
    facts = {
        "patient": first["patient"],
        "study": "" if first["study_day"] is None else f"day {first['study_day']} since the patient's first",
        "image": " · ".join(word for word in (first["modality"], first["plane"], first["body_part"]) if word),
        "kernel": first["kernel"],
        "slices": f"{len(rows)} of {first['rows']} × {first['columns']}",
        "spacing": " × ".join("?" if one is None else f"{one:.3g}" for one in spacing) + f" mm, slices {step} mm",
        "z": " to ".join(f"{z:.1f}" for z in sorted({min(heights), max(heights)})) + " mm" if heights else "",
        "values": f"{min(row['hu_min'] for row in rows)} to {max(row['hu_max'] for row in rows)}",
    }
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact) + "</dl>"


def _rejected(verdicts: Sequence[Verdict]) -> str:
    """One row for each reason and sentence."""
    if not verdicts:
        return "<p>Every file was taken.</p>"
    groups: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.reason.value if verdict.reason else "", verdict.detail].append(verdict)
    ordered = sorted(groups.items(), key=lambda item: (-sum(one.files for one in item[1]), item[0]))
    lines = []
    for (reason, detail), members in ordered:
        names = sorted(one.subject for one in members)
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        lines.append(
            f"<tr><td><code>{escape(reason)}</code></td><td>{escape(detail)}<details><summary>{len(names)} "
            f"series or files</summary><code>{escape(' '.join(names[:MAX_NAMES]))}{more}</code></details></td>"
            f'<td class="number">{sum(one.files for one in members)}</td></tr>'
        )
    head = '<tr><th>reason</th><th>why</th><th class="number">files</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
