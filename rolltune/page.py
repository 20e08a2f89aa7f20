"""What the pages for people have in common: one HTML file each, with no network and no script, in one style."""

import base64

from rolltune.errors import as_html
from rolltune.plots import Plot

# The policy makes sure of it: whatever text is in the data, nothing is loaded and nothing runs.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, body: str) -> str:
    """The whole page. `body` is HTML; the title is text."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{as_html(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<style>{CSS}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section><h2>{as_html(title)}</h2>{body}</section>"


def wide_table(heads: str, rows: list[str], stays: bool = False) -> str:
    """A card that scrolls where it is narrower than the table; with `stays` the first column does not."""
    style = "wide stays" if stays else "wide"
    return f'<div class="card scroll"><table class="{style}"><tr>{heads}</tr>{"".join(rows)}</table></div>'


def plot_card(plot: Plot) -> str:
    light, dark = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (plot.light, plot.dark))
    return (
        f'<div class="card plot"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{as_html(plot.description)}" src="{light}"></picture></div>'
    )


# One column on a phone, light and dark after the reader's system.
CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1d1f23; --soft: #666a73; --line: #e1dfd8;
  --accent: #0b6e69; --muted: #a9b4b8; --good: 11 110 105; --bad: 190 60 40; --warn-back: #fff4dc;
  --warn-line: #e0a526; --shade: rgb(0 0 0 / .22);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1d2026; --ink: #e9e8e4; --soft: #9aa0aa; --line: #31353d;
    --shade: rgb(0 0 0 / .7); --accent: #4fc3b8; --muted: #59636d; --good: 79 195 184; --bad: 236 108 84;
    --warn-back: #2c2617; --warn-line: #b98a26;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Hiragino Sans",
  "Noto Sans JP", sans-serif; overflow-wrap: anywhere; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 18px 64px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 40px 0 12px; }
h3 { font-size: .95rem; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 70ch; }
.soft, small { color: var(--soft); }
.below { margin: 10px 0 0; font-size: .9rem; max-width: none; }
.lead { font-size: 1.05rem; margin: 14px 0 18px; }
code, pre { font: .88em/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px;
  margin: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0; }
.tiles .value { font-size: 1.85rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles .value.word { font-size: 1.15rem; padding: .45rem 0 .3rem; }
.tiles small { display: block; }
.warnings { background: var(--warn-back); border: 1px solid var(--warn-line); border-radius: 12px;
  padding: 12px 16px 12px 34px;
  margin: 0; }
.warnings li { margin: 4px 0; }
/* Where a table goes on to the side, its edge is in shade, and there is a bar to see: the covers scroll along. */
.scroll { overflow-x: auto; background:
  linear-gradient(90deg, var(--card) 40%, transparent) left / 36px 100% no-repeat local,
  linear-gradient(270deg, var(--card) 40%, transparent) right / 36px 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) left / 16px 100% no-repeat,
  linear-gradient(270deg, var(--shade), transparent) right / 16px 100% no-repeat, var(--card); }
.scroll::-webkit-scrollbar { height: 10px; }
.scroll::-webkit-scrollbar-thumb { background: var(--muted); border-radius: 5px; border: 2px solid var(--card); }
@supports not selector(::-webkit-scrollbar) { .scroll { scrollbar-width: thin; } }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { width: 100%; font-size: .9rem; }
.wide th, .wide td { padding: 7px 8px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
.wide tr:last-child td { border-bottom: 0; }
.wide th { font-weight: 500; color: var(--soft); font-size: .85rem; }
.wide .text { text-align: left; }
.wide .wrap { white-space: normal; min-width: 11em; }
.wide .half { white-space: normal; min-width: 6em; }
.wide .change .was { display: block; font-size: .85rem; }
.label { width: max-content; max-width: 15em; white-space: normal; }
/* What names a row stays in sight when the figures scroll. */
.stays th:first-child, .stays td:first-child { position: sticky; left: 0; background: var(--card); z-index: 1; }
tr.best td { font-weight: 650; }
tr.out td { color: var(--soft); }
.was { color: var(--soft); font-weight: 400; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 12px; }
h3.name { margin: 18px 0 8px; }
h3.name:first-of-type { margin-top: 0; }
.confusion th { font-weight: 500; font-size: .85rem; color: var(--soft); padding: 4px 8px; text-align: right; }
.confusion tr:first-child th { vertical-align: bottom; }
.confusion th .label { margin-left: auto; }
.confusion td { padding: 9px 12px; min-width: 3.4em; text-align: center; border: 2px solid var(--card);
  border-radius: 8px; }
.confusion.many td { padding: 2px 3px; min-width: 1.9em; font-size: .85rem; border-width: 1px; border-radius: 4px; }
.confusion.many th { padding: 2px 6px; }
.confusion.many .upright { writing-mode: vertical-rl; transform: rotate(180deg); height: max-content; max-height: 15em;
  width: auto; max-width: 3.2em; margin: 0 auto; text-align: left; line-height: 1.1; }
.confusion.many small { white-space: nowrap; }
.range { position: relative; display: inline-block; width: 120px; height: 14px; vertical-align: middle; }
.range::before { content: ""; position: absolute; inset: 6.5px 0 auto; height: 1px; background: var(--line); }
.range i { position: absolute; top: 4px; height: 6px; border-radius: 3px; background: var(--muted); }
.range b { position: absolute; top: 1px; width: 4px; height: 12px; margin-left: -2px; border-radius: 2px;
  background: var(--ink); }
tr.best .range i { background: var(--accent); }
.bars { display: grid; grid-template-columns: minmax(4em, max-content) 1fr; gap: 12px 14px; align-items: center; }
.bars > div:nth-child(odd) { text-align: right; max-width: 12em; }
.bar { white-space: nowrap; display: flex; align-items: center; gap: 8px; height: 17px; font-size: .82rem;
    color: var(--soft); }
.bar i { display: block; height: 11px; border-radius: 3px; min-width: 2px; background: var(--muted); }
.bar.after i { background: var(--accent); }
.bar.data i { background: none; border: 1.5px solid var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-bottom: 14px; }
.key .bar i { width: 22px; }
.plot { max-width: 754px; }
.card + .pair { margin-top: 12px; }
.plot + .scroll { margin-top: 12px; }
.plot img { display: block; width: 100%; max-width: 720px; height: auto; }
code span { display: inline-block; max-width: 100%; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
figure.wrong { border-color: rgb(var(--bad) / .65); }
figure .views { display: flex; gap: 2px; height: 180px; background: rgb(128 128 128 / .12); }
figure img { flex: 1; min-width: 0; width: 100%; height: 100%; object-fit: contain; }
figure svg { flex: 1; min-width: 0; width: 100%; height: 100%; }
rect.given, rect.answered { fill: none; stroke-width: 2px; vector-effect: non-scaling-stroke; }
rect.given, .box.given i { stroke: #19c3b2; border-color: #0d8f83; }
rect.answered, .box.answered i { stroke: #ff7a45; stroke-dasharray: 6 4; border: 2px dashed #e0561f; }
text.given, text.answered { font: 600 13px system-ui, sans-serif; paint-order: stroke; stroke: #000a;
  stroke-width: 3px; }
text.given { fill: #6ff0e2; }
text.answered { fill: #ffb28f; }
.box { display: flex; align-items: center; gap: 8px; font-size: .82rem; color: var(--soft); }
.box i { width: 22px; height: 13px; border: 2px solid; border-radius: 2px; }
figure .views p { margin: auto; padding: 12px; font-size: .82rem; color: var(--soft); text-align: center; }
figcaption { padding: 10px 12px 12px; font-size: .88rem; }
figcaption .verdict { font-weight: 600; }
figure.wrong .verdict { color: rgb(var(--bad)); }
figcaption small { display: block; font-size: .78rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 16px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
details summary { cursor: pointer; margin: 12px 0; color: var(--soft); }
@media (max-width: 560px) {
  main { padding: 18px 12px 48px; }
  h1 { font-size: 1.3rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles .card { padding: 12px; }
  .tiles .value { font-size: 1.45rem; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 10px; }
  figure .views { height: 130px; }
  .plot { padding: 8px; }
  .label { max-width: 7.5em; }
  .bars { grid-template-columns: minmax(3em, 42%) 1fr; gap: 10px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
.verdict-good, .verdict-bad { padding: 10px 16px; border-radius: 12px; max-width: none; font-weight: 600;
  border: 1px solid; }
.verdict-good { color: rgb(var(--good)); background: rgb(var(--good) / .1); border-color: rgb(var(--good) / .5); }
.verdict-bad { color: rgb(var(--bad)); background: rgb(var(--bad) / .1); border-color: rgb(var(--bad) / .5); }
.found summary { color: var(--ink); font-weight: 600; margin: 0; }
.found { margin-bottom: 10px; }
.found ul { margin: 10px 0 0; padding-left: 1.2rem; }
.found li { margin: 6px 0; }
.thumbs { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 6px; }
.thumbs img { border-radius: 6px; display: block; }
@media print { body { background: none; } figure, .card { break-inside: avoid; } }
"""
