"""The looks and the behaviour of `report.html`: one page that needs nothing but itself."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="medssl-digest" content="$digest">
<title>Ingestion report</title>
<style>
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #16202a; --quiet: #5b6875; --line: #dde2e8;
  --accepted: #1a7f4b; --repaired: #a86200; --rejected: #b3261e; --bar: #3d6fb4; }
@media (prefers-color-scheme: dark) {
  :root { --back: #101418; --card: #181e25; --text: #e8edf2; --quiet: #95a3b1; --line: #2b343e;
    --accepted: #4cc38a; --repaired: #f0a63c; --rejected: #f2716b; --bar: #7fa9e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1280px; background: var(--back); color: var(--text);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
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
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
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
</style>
</head>
<body>
<h1>Ingestion report</h1>
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
</script>
</body>
</html>
"""
"""A `string.Template`; what is put in is already HTML."""
