"""The page of `07-predict.py --serve`: HTML, style and script, each a file of its own to the browser.

Names and answers reach the page as text alone (`textContent`), never as HTML.
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rolltune</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
<script src="page.js" defer></script>
</head>
<body>
<main>
<h1><bdi id="roll">rolltune</bdi></h1>
<p id="prompt" class="soft"></p>
<noscript><p class="error">This page needs JavaScript.</p></noscript>
<p id="own" hidden><label>Question <input id="question" type="text" size="40" maxlength="2000"></label></p>
<label id="drop" for="files"><strong>Drop pictures here</strong>
<span class="soft">or press to choose them</span>
<input id="files" type="file" multiple accept="image/*"></label>
<p id="state" role="status" aria-live="polite"></p>
<ol id="answers"></ol>
</main>
</body>
</html>
"""

STYLE = """:root { color-scheme: light dark; --page: #f6f5f1; --card: #fff; --ink: #1d1f23; --soft: #666a73;
  --line: #e1dfd8; --accent: #0b6e69; --bad: #be3c28; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1d2026; --ink: #e9e8e4; --soft: #9aa0aa;
  --line: #31353d; --accent: #4fc3b8; --bad: #ec6c54; --warn: #e0a526; } }
* { box-sizing: border-box; }
[hidden] { display: none; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 900px; margin: 0 auto; padding: 28px 18px 64px; }
h1 { font-size: 1.4rem; margin: 0 0 4px; }
.soft { color: var(--soft); }
#drop { display: grid; gap: 6px; justify-items: center; padding: 42px 16px; background: var(--card);
  border: 2px dashed var(--line); border-radius: 12px; cursor: pointer; }
#drop.over, #drop:focus-within { border-color: var(--accent); }
#files { position: absolute; width: 1px; height: 1px; opacity: 0; }
#question { max-width: 100%; font: inherit; padding: 4px 8px; }
#answers { list-style: none; margin: 18px 0 0; padding: 0; display: grid; gap: 12px; }
#answers li { display: grid; grid-template-columns: 120px 1fr; gap: 16px; padding: 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; }
#answers .view { width: 120px; height: 120px; display: grid; place-items: center; }
#answers img { max-width: 120px; max-height: 120px; }
#answers .view { position: relative; }
#answers svg { position: absolute; inset: 0; width: 100%; height: 100%; }
#answers rect { fill: none; stroke: #ff7a45; stroke-width: 2px; vector-effect: non-scaling-stroke; }
#answers li.boxed { grid-template-columns: 280px 1fr; }
#answers .boxed .view { width: 280px; height: 280px; }
#answers .boxed img { width: 280px; height: 280px; max-width: none; max-height: none; object-fit: contain; }
.name { color: var(--soft); font-size: .88rem; }
.answer { font-size: 1.25rem; font-weight: 650; white-space: pre-wrap; }
.error { color: var(--bad); }
.near { color: var(--warn); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-top: 6px; }
td { padding: 2px 12px 2px 0; vertical-align: middle; }
meter { width: 140px; }
@media (max-width: 480px) { #answers li { grid-template-columns: 72px 1fr; gap: 10px; }
  #answers .view { width: 72px; height: 72px; } #answers img { max-width: 72px; max-height: 72px; }
  #answers li.boxed { grid-template-columns: 1fr; }
  meter { width: 72px; } }
"""

SCRIPT = """"use strict";
const MOST_SHOWN = 6;
const at = (id) => document.getElementById(id);
let about = { files: 1, bytes: 0 };

function made(kind, text, style) {
  const one = document.createElement(kind);
  if (text !== undefined) one.textContent = text;
  if (style) one.className = style;
  return one;
}

async function asked(place, options) {
  const reply = await fetch(place, options);
  const told = await reply.json().catch(() => ({ error: "the page got no answer that it understands" }));
  if (!reply.ok) throw new Error(told.error || "the request was refused");
  return told;
}

function bars(probabilities) {
  const table = made("table");
  const rows = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  for (const [answer, p] of rows.slice(0, MOST_SHOWN)) {
    const row = table.insertRow();
    const name = made("bdi", answer);
    row.insertCell().append(name);
    const bar = made("meter");
    bar.value = p;
    row.insertCell().append(bar);
    row.insertCell().textContent = p.toFixed(4);
  }
  if (rows.length > MOST_SHOWN) table.insertRow().insertCell().textContent = `and ${rows.length - MOST_SHOWN} more`;
  return table;
}

function outlines(boxes, width, height) {
  const drawing = (kind, values) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(values)) one.setAttribute(name, value);
    return one;
  };
  const all = drawing("svg", { viewBox: `0 0 ${width} ${height}` });
  for (const box of boxes) {
    const sides = { x: box.xmin, y: box.ymin, width: box.xmax - box.xmin, height: box.ymax - box.ymin };
    const rect = drawing("rect", sides);
    const name = drawing("title", {});
    name.textContent = box.label;
    rect.append(name);
    all.append(rect);
  }
  return all;
}

function card(file, told) {
  const item = made("li");
  const view = made("div", undefined, "view");
  if (!told.error) {
    const picture = made("img");
    picture.alt = "";
    picture.src = URL.createObjectURL(file);
    const boxes = told.rows.length === 1 ? told.rows[0].boxes : null;
    if (boxes) item.className = "boxed";
    picture.onload = () => {
      URL.revokeObjectURL(picture.src);
      if (boxes) view.append(outlines(boxes, picture.naturalWidth, picture.naturalHeight));
    };
    picture.onerror = () => URL.revokeObjectURL(picture.src);
    view.append(picture);
  }
  const text = made("div");
  const name = made("div", undefined, "name");
  name.append(made("bdi", told.name));
  text.append(name);
  if (told.error) text.append(made("div", told.error, "error"));
  for (const row of told.rows || []) {
    const answer = made("div", undefined, "answer");
    answer.append(made("bdi", row.answer === "" ? "(nothing)" : row.answer));
    text.append(answer);
    if (row.threshold) {
      const rule = made("div", undefined, "soft");
      rule.append(made("bdi", row.threshold.answer), ` from ${row.threshold.at.toFixed(4)} on`);
      text.append(rule);
    }
    if (row.near) text.append(made("div", "a near thing: look for yourself", "near"));
    const votes = Object.entries(row.votes || {});
    if (votes.length > 1) text.append(made("div", "votes: " + votes.map(([a, n]) => `${a} ${n}`).join(", "), "soft"));
    if (row.probabilities) text.append(bars(row.probabilities));
  }
  item.append(view, text);
  return item;
}

async function send(list) {
  const files = Array.from(list);
  if (!files.length) return;
  const bytes = files.reduce((sum, one) => sum + one.size, 0);
  if (files.length > about.files || bytes > about.bytes) {
    at("state").textContent = `At most ${about.files} pictures and ${about.bytes >> 20} MiB at once: drop fewer.`;
    return;
  }
  const form = new FormData();
  if (about.asks) form.append("question", at("question").value);
  for (const one of files) form.append("files", one, one.name);
  at("state").textContent = `Looking at ${files.length} ${files.length === 1 ? "file" : "files"} ...`;
  try {
    const told = await asked("answers", { method: "POST", body: form });
    const cards = told.map((one, number) => card(files[number], one));
    at("answers").prepend(...cards);
    at("state").textContent = "";
  } catch (error) {
    at("state").textContent = error.message;
  }
}

async function begin() {
  const drop = at("drop");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  document.addEventListener("drop", (event) => send(event.dataTransfer.files));
  at("files").addEventListener("change", (event) => { send(event.target.files); event.target.value = ""; });
  about = await asked("about");
  at("roll").textContent = about.roll;
  document.title = about.roll;
  at("prompt").textContent = about.prompt;
  at("own").hidden = !about.asks;
}

begin().catch((error) => { at("state").textContent = error.message; });
"""
