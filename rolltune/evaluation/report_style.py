"""The report's style sheet: one column on a phone, light and dark after the reader's system."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f5f1; --card: #ffffff; --ink: #1d1f23; --soft: #666a73; --line: #e1dfd8;
  --accent: #0b6e69; --muted: #a9b4b8; --good: 11 110 105; --bad: 190 60 40; --warn-back: #fff4dc;
    --warn-line: #e0a526;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1d2026; --ink: #e9e8e4; --soft: #9aa0aa; --line: #31353d;
    --accent: #4fc3b8; --muted: #59636d; --good: 79 195 184; --bad: 236 108 84; --warn-back: #2c2617;
    --warn-line: #b98a26;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Hiragino Sans",
  "Noto Sans JP", sans-serif; overflow-wrap: anywhere; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 18px 64px; }
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
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { width: 100%; font-size: .9rem; }
.wide th, .wide td { padding: 7px 8px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
.wide tr:last-child td { border-bottom: 0; }
.wide th { font-weight: 500; color: var(--soft); font-size: .85rem; }
.wide .text { text-align: left; }
.wide .wrap { white-space: normal; min-width: 11em; }
tr.best td { font-weight: 650; }
tr.out td { color: var(--soft); }
.was { color: var(--soft); font-weight: 400; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 12px; }
h3.name { margin: 18px 0 8px; }
h3.name:first-of-type { margin-top: 0; }
.confusion th { font-weight: 500; font-size: .85rem; color: var(--soft); padding: 4px 8px; text-align: right;
  max-width: 9em; }
.confusion td { padding: 9px 12px; min-width: 3.4em; text-align: center; border: 2px solid var(--card);
  border-radius: 8px; }
.range { position: relative; display: inline-block; width: 120px; height: 14px; vertical-align: middle; }
.range::before { content: ""; position: absolute; inset: 6.5px 0 auto; height: 1px; background: var(--line); }
.range i { position: absolute; top: 4px; height: 6px; border-radius: 3px; background: var(--muted); }
.range b { position: absolute; top: 1px; width: 4px; height: 12px; margin-left: -2px; border-radius: 2px;
  background: var(--ink); }
tr.best .range i { background: var(--accent); }
.bars { display: grid; grid-template-columns: minmax(4em, max-content) 1fr; gap: 12px 14px; align-items: center; }
.bars > div:nth-child(odd) { text-align: right; max-width: 12em; }
.bar { display: flex; align-items: center; gap: 8px; height: 17px; font-size: .82rem; color: var(--soft); }
.bar i { display: block; height: 11px; border-radius: 3px; min-width: 2px; background: var(--muted); }
.bar.after i { background: var(--accent); }
.bar.data i { background: none; border: 1.5px solid var(--soft); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-bottom: 14px; }
.key .bar i { width: 22px; }
.plot img { display: block; width: 100%; height: auto; }
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
  .pictures { grid-template-columns: 1fr 1fr; gap: 10px; }
  figure .views { height: 130px; }
  .plot { overflow-x: auto; }
  .plot img { min-width: 600px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; }
}
@media print { body { background: none; } figure, .card { break-inside: avoid; } }
"""
