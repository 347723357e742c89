// The table of utterances: sorted, filtered and shown by the page. Texts come from models and manifests, and reach the page only as
// text nodes, never as markup.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [ID, ERRORS, UNITS, SECONDS, STATUS, FLAGS, GROUPS, IN_WORDS, REFERENCE, HYPOTHESIS, NORMAL_REFERENCE, NORMAL_HYPOTHESIS, PIECES, AUDIO] =
  Array(14).keys();
const PAGE = 50;
const byId = (id) => document.getElementById(id);
const rate = (row) => row[ERRORS] / row[UNITS];
const KEYS = {
  id: (row) => row[ID], rate, errors: (row) => row[ERRORS], units: (row) => row[UNITS], seconds: (row) => row[SECONDS] ?? -1,
  status: (row) => data.statuses[row[STATUS]],
};
const state = { key: "errors", down: true, page: 0, open: new Set() };
let found = [];

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function choose() {
  const words = byId("search").value.toLowerCase();
  const flag = byId("flag").value, status = byId("status").value;
  const groups = [...document.querySelectorAll("select[data-group]")].map((select) => [Number(select.dataset.group), select.value]);
  found = data.rows.filter((row) =>
    (flag === "" || row[FLAGS].includes(Number(flag))) &&
    (status === "" || row[STATUS] === Number(status)) &&
    groups.every(([which, value]) => value === "" || row[GROUPS][which].includes(Number(value))) &&
    (words === "" || [row[ID], row[REFERENCE], row[HYPOTHESIS] ?? ""].some((text) => text.toLowerCase().includes(words))));
  const key = KEYS[state.key], sign = state.down ? -1 : 1;
  found.sort((a, b) => {
    const x = key(a), y = key(b);
    return x < y ? -sign : x > y ? sign : a[ID] < b[ID] ? -1 : a[ID] > b[ID] ? 1 : 0;
  });
  state.page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const body = byId("rows");
  body.replaceChildren();
  for (const row of found.slice(state.page * PAGE, (state.page + 1) * PAGE)) {
    const line = make("tr", null, "row");
    line.append(make("td", row[ID], "text"), make("td", (100 * rate(row)).toFixed(1)), make("td", row[ERRORS]),
      make("td", `${row[UNITS]}${row[IN_WORDS] ? "" : " chars"}`), make("td", row[SECONDS] === null ? "" : row[SECONDS].toFixed(2)),
      make("td", data.statuses[row[STATUS]]), make("td", row[FLAGS].map((flag) => data.flags[flag]).join(" "), "text"),
      make("td", row[REFERENCE].slice(0, 90), "text"));
    line.tabIndex = 0;
    const toggle = () => { state.open.has(row[ID]) ? state.open.delete(row[ID]) : state.open.add(row[ID]); show(); };
    line.onclick = toggle;
    line.onkeydown = (event) => { if (event.key === "Enter") toggle(); };
    body.append(line);
    if (state.open.has(row[ID])) body.append(more(row));
  }
  byId("count").textContent = `${found.length} of ${data.rows.length} utterances`;
  byId("page").textContent = `page ${state.page + 1} of ${pages}`;
  for (const head of document.querySelectorAll("th[data-key]")) {
    const sorted = head.dataset.key === state.key;
    head.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    head.querySelector("span").textContent = sorted ? (state.down ? " ▼" : " ▲") : "";
  }
}

function more(row) {
  const line = make("tr", null, "more"), cell = make("td");
  cell.colSpan = 8;
  cell.append(aligned(row));
  for (const [name, text] of [["reference", row[REFERENCE]], ["prediction", row[HYPOTHESIS] ?? "(none)"]]) {
    const part = make("p");
    part.append(make("span", `${name}: `, "soft"), make("span", text));
    cell.append(part);
  }
  if (row[AUDIO]) {
    const [path, start, end] = row[AUDIO], player = make("audio");
    player.controls = true;
    player.preload = "metadata";
    player.src = path + (start || end ? `#t=${start ?? 0}${end ? `,${end}` : ""}` : "");
    cell.append(player);
  }
  line.append(cell);
  return line;
}

function aligned(row) {
  const units = (text) => (row[IN_WORDS] ? text.split(" ") : [...text]), between = row[IN_WORDS] ? " " : "";
  const wanted = units(row[NORMAL_REFERENCE] ?? row[REFERENCE]), said = units(row[NORMAL_HYPOTHESIS] ?? row[HYPOTHESIS] ?? "");
  const part = make("p", null, "aligned");
  let at = 0, at_said = 0;
  for (let piece = 0; piece < row[PIECES].length; piece += 3) {
    const [kind, number, number_said] = row[PIECES].slice(piece, piece + 3);
    const left = wanted.slice(at, at += number).join(between), right = said.slice(at_said, at_said += number_said).join(between);
    const span = make("span", kind === 0 ? left : null, kind === 1 ? "sub" : "");
    if (kind === 1 || kind === 2) span.append(make("del", left));
    if (kind === 1) span.append(" ");
    if (kind === 1 || kind === 3) span.append(make("ins", right));
    part.append(span, between);
  }
  return part;
}

for (const head of document.querySelectorAll("th[data-key]")) {
  head.querySelector("button").onclick = () => {
    state.down = state.key === head.dataset.key ? !state.down : !["id", "status"].includes(head.dataset.key);
    state.key = head.dataset.key;
    choose();
  };
}
for (const control of document.querySelectorAll(".filters input, .filters select")) control.oninput = choose;
byId("before").onclick = () => { state.page -= 1; show(); };
byId("after").onclick = () => { state.page += 1; show(); };
choose();
