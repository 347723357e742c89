// The table of utterances: sorted, filtered and shown by the page. Texts come from models and manifests, and reach the page only as
// text nodes, never as markup.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const FIELD = Object.fromEntries(data.fields.map((name, at) => [name, at]));
const get = (row, name) => row[FIELD[name]];
const { substitute: SUBSTITUTE, delete: DELETE, insert: INSERT, gap: GAP } = data.kinds;
const PAGE = 50;
const UNSURE = [[30, "unsure very"], [60, "unsure"], [85, "unsure little"]];  // of words: percent below which, class
const byId = (id) => document.getElementById(id);
const isScored = (row) => get(row, "errors") !== null;
const rate = (row) => (isScored(row) ? get(row, "errors") / get(row, "units") : -1);
const KEYS = {
  rate, id: (row) => get(row, "id"), errors: (row) => get(row, "errors") ?? -1, units: (row) => get(row, "units") ?? -1,
  seconds: (row) => get(row, "seconds") ?? -1, status: (row) => data.statuses[get(row, "status")],
};
const state = { key: "errors", down: true, page: 0 };
let found = [], sorted = { key: null, down: null, rows: [] };

// What turns the direction of writing, and other characters that nobody sees, written out as in the command's messages.
const written = (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`;
const printable = (text) => String(text).replace(/(?![\s\u200c\u200d])\p{C}/gu, written);

// The small letter of İ is an i and a dot above; who types i means both, and one code point or two for é is the same.
const folded = (text) => text.toLowerCase().normalize().replaceAll("\u0307", "");

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = printable(text);
  if (className) element.className = className;
  return element;
}

// All rows in the order asked for; kept, because filters change with every letter typed and the order does not.
function inOrder() {
  if (sorted.key !== state.key || sorted.down !== state.down) {
    const key = KEYS[state.key], sign = state.down ? -1 : 1;
    const places = data.rows.map((row) => [key(row), KEYS.id(row), row]);
    places.sort(([x, id], [y, other]) => (x < y ? -sign : x > y ? sign : id < other ? -1 : id > other ? 1 : 0));
    sorted = { key: state.key, down: state.down, rows: places.map((place) => place[2]) };
  }
  return sorted.rows;
}

function choose() {
  const words = folded(byId("search").value);
  const flag = byId("flag").value, status = byId("status").value, scored = byId("scored").value;
  const groups = [...document.querySelectorAll("select[data-group]")].map((select) => [Number(select.dataset.group), select.value]);
  found = inOrder().filter((row) =>
    (flag === "" || get(row, "flags").includes(Number(flag))) &&
    (status === "" || get(row, "status") === Number(status)) &&
    (scored === "" || get(row, "scored") === Number(scored)) &&
    groups.every(([which, value]) => value === "" || get(row, "groups")[which].includes(Number(value))) &&
    (words === "" || ["id", "reference", "hypothesis"].some((name) => folded(get(row, name) ?? "").includes(words))));
  state.page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const body = byId("rows");
  body.replaceChildren();
  for (const row of found.slice(state.page * PAGE, (state.page + 1) * PAGE)) body.append(line(row));
  byId("count").textContent = `${found.length} of ${data.rows.length} utterances`;
  byId("page").textContent = `page ${state.page + 1} of ${pages}`;
  byId("before").disabled = state.page === 0;
  byId("after").disabled = state.page + 1 === pages;
  for (const head of document.querySelectorAll("th[data-key]")) {
    const sorted = head.dataset.key === state.key;
    head.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
    head.querySelector("span").textContent = sorted ? (state.down ? " ▼" : " ▲") : "";
  }
}

function line(row) {
  const element = make("tr", null, "row"), name = make("td", null, "text"), button = make("button", get(row, "id"));
  const seconds = get(row, "seconds");
  button.setAttribute("aria-expanded", "false");
  name.append(button);
  const units = isScored(row) ? `${get(row, "units")}${get(row, "in_words") ? "" : " chars"}` : "";
  element.append(name, make("td", isScored(row) ? (100 * rate(row)).toFixed(1) : "–"), make("td", get(row, "errors")),
    make("td", units), make("td", seconds === null ? "" : seconds.toFixed(2)),
    make("td", data.statuses[get(row, "status")]), make("td", get(row, "flags").map((flag) => data.flags[flag]).join(" "), "text"),
    make("td", (get(row, "reference") ?? get(row, "hypothesis") ?? "").slice(0, 90), "text"));
  // Only this row changes: what plays in another goes on, and the keyboard stays where it is.
  element.onclick = () => {
    if (!getSelection().isCollapsed) return;  // text was marked, to be copied
    const open = button.getAttribute("aria-expanded") === "true";
    if (open) element.nextSibling.remove(); else element.after(more(row));
    button.setAttribute("aria-expanded", String(!open));
  };
  return element;
}

function more(row) {
  const element = make("tr", null, "more"), cell = make("td"), player = audio(row);
  cell.colSpan = 8;
  cell.append(isScored(row) ? aligned(row, player) : make("p", `not scored: ${data.scored[get(row, "scored")]}`, "soft"));
  const said = get(row, "words") ? byConfidence(row, player) : make("span", get(row, "hypothesis") ?? "(none)");
  for (const [name, text] of [["reference", make("span", get(row, "reference") ?? "(none)")], ["prediction", said]]) {
    const part = make("p");
    part.append(make("span", `${name}: `, "soft"), text);
    cell.append(part);
  }
  if (player) cell.append(player);
  element.append(cell);
  return element;
}

function audio(row) {
  if (!get(row, "audio")) return null;
  const [path, start, end] = get(row, "audio"), player = make("audio");
  player.controls = true;
  player.preload = "metadata";
  player.src = path + (start || end ? `#t=${start ?? 0}${end ? `,${end}` : ""}` : "");
  return player;
}

function aligned(row, player) {
  const units = (text) => (get(row, "in_words") ? text.split(" ") : [...text]), between = get(row, "in_words") ? " " : "";
  const wanted = units(get(row, "normal_reference") ?? get(row, "reference"));
  const said = units(get(row, "normal_hypothesis") ?? get(row, "hypothesis") ?? "");
  const part = make("p", null, "aligned"), pieces = get(row, "pieces"), times = get(row, "times");
  let at = 0, at_said = 0;
  for (let piece = 0; piece < pieces.length; piece += 3) {
    const [kind, number, number_said] = pieces.slice(piece, piece + 3);
    if (kind === GAP) { part.append(make("span", "…", "soft"), " "); continue; }
    const left = wanted.slice(at, at += number).join(between), right = said.slice(at_said, at_said += number_said).join(between);
    const span = make("span", kind === data.kinds.equal ? left : null, kind === SUBSTITUTE ? "sub" : "");
    if (kind === SUBSTITUTE || kind === DELETE) span.append(make("del", left));
    if (kind === SUBSTITUTE) span.append(" ");
    if (kind === SUBSTITUTE || kind === INSERT) span.append(make("ins", right));
    if (kind !== data.kinds.equal && player && times) playsFrom(span, player, (get(row, "audio")[1] ?? 0) + times[piece / 3]);
    part.append(span, between);
  }
  return part;
}

// Each word played by a click, and coloured the more the less probable it is.
function byConfidence(row, player) {
  const part = make("span", null, "words"), words = get(row, "words");
  for (let at = 0; at < words.length; at += 3) {
    const [text, start, percent] = words.slice(at, at + 3), said = text.trimStart();
    const span = make("span", said, UNSURE.find(([below]) => percent < below)?.[1] ?? "");
    if (player) playsFrom(span, player, (get(row, "audio")[1] ?? 0) + start);
    span.title = `${percent} %${player ? `, ${span.title}` : ""}`;
    // The keyboard stops at those that one may doubt, and not at hundreds.
    if (!span.className.startsWith("unsure")) span.removeAttribute("tabindex");
    part.append(text.slice(0, text.length - said.length), span);
  }
  const rest = (get(row, "hypothesis") ?? "").match(/ \[[\d,]+ more characters\]$/);
  if (rest) part.append(`…${rest[0]}`);
  return part;
}

function playsFrom(span, player, seconds) {
  span.classList.add("plays");
  span.tabIndex = 0;
  span.setAttribute("role", "button");
  span.title = `play from ${seconds.toFixed(1)} s`;
  const play = () => { player.currentTime = seconds; player.play(); };
  span.onclick = play;
  span.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); play(); } };
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
