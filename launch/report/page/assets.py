"""Style and script of the page."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f6f8fa; --ink: #1f2733; --faint: #5d6875;
        --rule: #dde3ea; --accent: #2f6fd0; --mark: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161c; --card: #1a2029; --ink: #e3e8ee; --faint: #9aa6b4; --rule: #2d3641;
          --accent: #7db0ff; --mark: #3a3215; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 1.5rem 2rem 4rem;
       background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1rem 0 .4rem; }
p.about { color: var(--faint); margin: .2rem 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: bottom; white-space: nowrap;
         border-bottom: 1px solid var(--rule); }
th { color: var(--faint); font-weight: 600; } .left { text-align: left; }
tr.changed { background: var(--mark); }
ul.notes { color: var(--faint); font-size: .9rem; margin: .5rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1rem; }
.figures + .figures { margin-top: 1rem; }
.figures.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
figure { margin: 0; padding: .7rem .7rem .3rem; background: var(--card); border: 1px solid var(--rule);
         border-radius: 8px; min-width: 0; }
figure + figure.broad, .broad { grid-column: 1 / -1; }
figcaption { font-size: .9rem; font-weight: 600; } figcaption small { color: var(--faint); font-weight: 400; }
.buttons { display: flex; gap: .4rem; margin: .4rem 0 .8rem; flex-wrap: wrap; align-items: center; }
button, select { font: inherit; font-size: .88rem; color: var(--ink); background: var(--card);
                 border: 1px solid var(--rule); border-radius: 6px; padding: .25rem .8rem; cursor: pointer; }
button[aria-pressed=true] { border-color: var(--accent); color: var(--accent); font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: .7rem 1rem;
      overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
dt { font-weight: 600; } dd { margin: 0 0 .3rem 1.2rem; color: var(--faint); }
.error { color: #d04040; font-weight: 600; }
[hidden] { display: none !important; }
"""

SCRIPT = """
"use strict";
addEventListener("error", event => {
  const line = document.createElement("p");
  line.className = "error";
  line.textContent = "This page has failed: " + event.message;
  document.body.prepend(line);
});
const dark = matchMedia("(prefers-color-scheme: dark)");

function themed() {
  const style = getComputedStyle(document.documentElement);
  const get = name => style.getPropertyValue(name).trim();
  const axis = { gridcolor: get("--rule"), linecolor: get("--faint"), tickcolor: get("--faint") };
  return { axis, layout: { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
                           "font.color": get("--ink"), "hoverlabel.bgcolor": get("--paper") } };
}
function draw(box) {
  const figure = JSON.parse(box.nextElementSibling.textContent), { axis, layout } = themed();
  const shown = { ...figure.layout };
  shown.paper_bgcolor = layout.paper_bgcolor;
  shown.plot_bgcolor = layout.plot_bgcolor;
  const family = getComputedStyle(document.body).fontFamily;
  shown.font = { ...shown.font, color: layout["font.color"], family };
  shown.hoverlabel = { bgcolor: layout["hoverlabel.bgcolor"] };
  shown.xaxis = { ...shown.xaxis, ...axis };
  shown.yaxis = { ...shown.yaxis, ...axis };
  box.dataset.drawn = "yes";
  const drawn = Plotly.newPlot(box, figure.data, shown, { responsive: true, displayModeBar: false });
  if (box.closest(".broad")) box.on("plotly_relayout", change => follow(box, change));
  return drawn;
}
function broad(part) {
  return part.closest("section").querySelectorAll(".broad [data-figure]");
}
let following = false;
function follow(box, change) {
  if (following || !Object.keys(change).some(key => key.startsWith("xaxis"))) return;
  following = true;
  const range = box.layout.xaxis.range.slice();
  const others = [...broad(box)].filter(other => other !== box && other.dataset.drawn);
  Promise.all(others.map(other => Plotly.relayout(other, { "xaxis.range": range.slice() })))
    .finally(() => { following = false; });
}
function look(button) {
  const boxes = [...broad(button)].filter(box => box.dataset.drawn);
  if (!boxes.length) return;
  const { zoom, move } = button.dataset;
  if (zoom === "all") { Plotly.relayout(boxes[0], { "xaxis.autorange": true }); return; }
  const [low, high] = boxes[0].layout.xaxis.range;
  const middle = (low + high) / 2 + (high - low) * Number(move || 0);
  const half = (high - low) / 2 * Number(zoom || 1);
  Plotly.relayout(boxes[0], { "xaxis.range": [middle - half, middle + half] });
}
function recolour() {
  const { axis, layout } = themed(), change = { ...layout };
  for (const name of ["xaxis", "yaxis"])
    for (const [key, value] of Object.entries(axis)) change[name + "." + key] = value;
  document.querySelectorAll("[data-drawn]").forEach(box => Plotly.relayout(box, { ...change }));
}
const near = new IntersectionObserver(entries => {
  for (const entry of entries)
    if (entry.isIntersecting && !entry.target.dataset.drawn) draw(entry.target);
  const page = document.documentElement.dataset;  // for measurements: when the first figures were there
  page.openedMs = page.openedMs || Math.round(performance.now());
}, { rootMargin: "300px" });
function all() { return document.querySelectorAll("[data-figure]"); }
function drawAll() { all().forEach(box => { if (!box.dataset.drawn && box.offsetParent) draw(box); }); }

function choose(group, value) {
  document.querySelectorAll(`[data-group="${group}"]`).forEach(part => {
    part.hidden = part.dataset.value !== value;
  });
  document.querySelectorAll(`[data-choose="${group}"]`).forEach(button =>
    button.setAttribute("aria-pressed", String(button.dataset.value === value)));
  dispatchEvent(new Event("resize"));
}
document.querySelectorAll("button[data-choose]").forEach(button =>
  button.addEventListener("click", () => choose(button.dataset.choose, button.dataset.value)));
document.querySelectorAll("select[data-choose]").forEach(select =>
  select.addEventListener("change", () => choose(select.dataset.choose, select.value)));
document.querySelectorAll("[data-zoom], [data-move]").forEach(button =>
  button.addEventListener("click", () => look(button)));
dark.addEventListener("change", recolour);
addEventListener("beforeprint", drawAll);
if (location.hash === "#all") drawAll();  // for those who take pictures of the whole page
all().forEach(box => near.observe(box));
"""
