// The table of utterances: sorted, filtered and shown by the page. Texts come from models and manifests, and reach the page only as
// text nodes, never as markup.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const FIELD = Object.fromEntries(data.fields.map((name, at) => [name, at]));
const RUN_FIELD = Object.fromEntries(data.run_fields.map((name, at) => [name, at]));
const get = (row, name) => row[FIELD[name]];
const of = (run, name) => run[RUN_FIELD[name]];  // of what one run made of a row
const runsOf = (row) => row[FIELD.runs];
const { substitute: SUBSTITUTE, delete: DELETE, insert: INSERT, gap: GAP } = data.kinds;
const PAGE = 50;
const SHOWN = 200, AROUND = 40;  // characters of a text in the list, and of what is right beside an error in a long one
const UNSURE = [[30, "unsure very"], [60, "unsure"], [85, "unsure little"]];  // of words: percent below which, class
const byId = (id) => document.getElementById(id);
const isScored = (row) => get(row, "units") !== null;
const errorsOf = (row) => runsOf(row).map((run) => of(run, "errors"));
const errors = (row) => (isScored(row) ? errorsOf(row).reduce((sum, each) => sum + each, 0) : -1);
const rate = (row) => (isScored(row) ? errors(row) / get(row, "units") : -1);
const spread = (row) => (isScored(row) ? Math.max(...errorsOf(row)) - Math.min(...errorsOf(row)) : -1);
const KEYS = {
  rate, errors, spread, id: (row) => get(row, "id"), units: (row) => get(row, "units") ?? -1,
  seconds: (row) => get(row, "seconds") ?? -1,
  ...Object.fromEntries(data.names.map((_, at) => [`run${at}`, (row) => of(runsOf(row)[at], "errors") ?? -1])),
};
const HEADS = [...document.querySelectorAll(".list thead th")];
const HEAD_OF = Object.fromEntries(HEADS.map((head) => [head.dataset.key, head.querySelector("button")?.textContent]));
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
    (flag === "" || runsOf(row).some((run) => of(run, "flags").includes(Number(flag)))) &&
    (status === "" || runsOf(row).some((run) => of(run, "status") === Number(status))) &&
    (scored === "" || get(row, "scored") === Number(scored)) &&
    groups.every(([which, value]) => value === "" || get(row, "groups")[which].includes(Number(value))) &&
    (words === "" || folded(get(row, "id")).includes(words) || folded(get(row, "reference") ?? "").includes(words) ||
      runsOf(row).some((run) => folded(of(run, "hypothesis") ?? "").includes(words))));
  state.page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const body = byId("rows");
  body.replaceChildren();
  for (const row of found.slice(state.page * PAGE, (state.page + 1) * PAGE)) body.append(line(row));
  byId("count").textContent = `${found.length} of ${data.rows.length} utterance${data.rows.length === 1 ? "" : "s"}`;
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
  const seconds = get(row, "seconds"), runs = runsOf(row), alone = runs.length === 1;
  button.setAttribute("aria-expanded", "false");
  name.append(button, ...(alone ? marks(runs[0]) : []));
  const units = isScored(row) ? `${get(row, "units")}${get(row, "in_words") ? "" : " chars"}` : "";
  const numbers = { errors: isScored(row) ? errors(row) : "–", units, seconds: seconds === null ? "" : seconds.toFixed(2) };
  if (alone) numbers.rate = isScored(row) ? (100 * rate(row)).toFixed(1) : "–";
  else numbers.spread = isScored(row) ? spread(row) : "–";
  for (const { dataset: { key } } of HEADS) if (key in numbers) element.append(cell(numbers[key], key));
  name.className = "text name";
  element.prepend(name);
  element.append(cell(cut(get(row, "reference") ?? "") || "–", "reference"));
  for (const [at, run] of runs.entries()) element.append(prediction(row, run, at, alone));
  // Only this row changes: what plays in another goes on, and the keyboard stays where it is.
  element.onclick = () => {
    if (!getSelection().isCollapsed) return;  // text was marked, to be copied
    const open = button.getAttribute("aria-expanded") === "true";
    if (open) element.nextSibling.remove(); else element.after(more(row));
    button.setAttribute("aria-expanded", String(!open));
  };
  return element;
}

const cut = (text) => (text.length > SHOWN ? `${text.slice(0, SHOWN - 1)}…` : text);

// A cell, with its head for narrow windows, where the head of the table is not above it.
function cell(text, key, className) {
  const element = make("td", text, className ?? (key === "reference" ? "text long" : `number ${key}`));
  element.dataset.head = HEAD_OF[key] ?? key;
  return element;
}

// What a run made of a row, in the list: its errors coloured, in a long one from near the first of them.
function prediction(row, run, at, alone) {
  const element = cell(null, alone ? "prediction" : `run${at}`, `text long said${alone ? "" : ` run${at % 6}`}`);
  if (!alone) {
    const count = of(run, "errors"), head = make("div", null, "soft of-run");
    head.append(count === null ? "" : `${count} error${count === 1 ? "" : "s"}`, ...marks(run));
    element.append(head);
  }
  if (of(run, "hypothesis") === null) element.append(make("span", "(none)", "soft"));
  else if (isScored(row)) element.append(aligned(row, run, null, SHOWN));
  else element.append(make("span", cut(of(run, "hypothesis"))));
  return element;
}

// The status of a row that is not ok, and its flags.
function marks(run) {
  const status = data.statuses[of(run, "status")];
  const names = [...(status === "ok" ? [] : [[status, "chip bad"]]), ...of(run, "flags").map((flag) => [data.flags[flag], "chip"])];
  return names.flatMap(([name, className]) => [" ", make("span", name, className)]);
}

function more(row) {
  const element = make("tr", null, "more"), cell = make("td"), player = audio(row), runs = runsOf(row);
  cell.colSpan = HEADS.length;
  const part = (name, text) => {
    const paragraph = make("p");
    paragraph.append(make("span", `${name}: `, "soft"), text);
    cell.append(paragraph);
  };
  if (!isScored(row)) cell.append(make("p", `not scored: ${data.scored[get(row, "scored")]}`, "soft"));
  if (runs.length > 1) part("reference", make("span", get(row, "reference") ?? "(none)"));
  for (const [at, run] of runs.entries()) {
    if (runs.length > 1) cell.append(make("h3", data.names[at], `run${at % 6}`));
    if (isScored(row)) cell.append(aligned(row, run, player));
    if (runs.length === 1) part("reference", make("span", get(row, "reference") ?? "(none)"));
    part("prediction", of(run, "words") ? byConfidence(row, run, player) : make("span", of(run, "hypothesis") ?? "(none)"));
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

// What was said beside what was wanted. In the list, where nothing plays, some `most` characters of it.
function aligned(row, run, player, most = Infinity) {
  const units = (text) => (get(row, "in_words") ? text.split(" ") : [...text]), between = get(row, "in_words") ? " " : "";
  const wanted = units(of(run, "normal_reference") ?? get(row, "reference"));
  const said = units(of(run, "normal_hypothesis") ?? of(run, "hypothesis") ?? "");
  const part = make(most === Infinity ? "p" : "span", null, "aligned"), pieces = of(run, "pieces"), times = of(run, "times");
  const isLong = wanted.join(between).length + said.join(between).length > 2 * most;
  let at = 0, at_said = 0, shown = 0;
  for (let piece = 0; piece < pieces.length; piece += 3) {
    const [kind, number, number_said] = pieces.slice(piece, piece + 3);
    if (shown > most) { part.append(make("span", "…", "soft")); break; }
    if (kind === GAP) { part.append(make("span", "…", "soft"), " "); continue; }
    let left = wanted.slice(at, at += number).join(between), right = said.slice(at_said, at_said += number_said).join(between);
    if (isLong) [left, right] = [left, right].map((text) => (text.length > most / 2 ? shortened(text, kind, piece, pieces) : text));
    shown += Math.max(left.length, right.length);
    const span = make("span", kind === data.kinds.equal ? left : null, kind === SUBSTITUTE ? "sub" : "");
    if (kind === SUBSTITUTE || kind === DELETE) span.append(make("del", left));
    if (kind === SUBSTITUTE) span.append(" ");
    if (kind === SUBSTITUTE || kind === INSERT) span.append(make("ins", right));
    if (kind !== data.kinds.equal && player && times) playsFrom(span, player, (get(row, "audio")[1] ?? 0) + times[piece / 3]);
    part.append(span, between);
  }
  return part;
}

// A long piece: of what is right the ends that are beside errors, of an error its beginning.
function shortened(text, kind, piece, pieces) {
  if (kind !== data.kinds.equal) return `${text.slice(0, AROUND)}…`;
  // Whole words, where there are any.
  const before = piece ? text.slice(0, AROUND).replace(/\s\S*$/, "") : "";
  const after = piece + 3 < pieces.length ? text.slice(-AROUND).replace(/^\S*\s/, "") : "";
  return before || after ? `${before} … ${after}` : `${text.slice(0, SHOWN)}…`;
}

// Each word played by a click, and coloured the more the less probable it is.
function byConfidence(row, run, player) {
  const part = make("span", null, "words"), words = of(run, "words");
  for (let at = 0; at < words.length; at += 3) {
    const [text, start, percent] = words.slice(at, at + 3), said = text.trimStart();
    const span = make("span", said, UNSURE.find(([below]) => percent < below)?.[1] ?? "");
    if (player) playsFrom(span, player, (get(row, "audio")[1] ?? 0) + start);
    span.title = `${percent} %${player ? `, ${span.title}` : ""}`;
    // The keyboard stops at those that one may doubt, and not at hundreds.
    if (!span.className.startsWith("unsure")) span.removeAttribute("tabindex");
    part.append(text.slice(0, text.length - said.length), span);
  }
  const rest = (of(run, "hypothesis") ?? "").match(/ \[[\d,]+ more characters\]$/);
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
    state.down = state.key === head.dataset.key ? !state.down : head.dataset.key !== "id";
    state.key = head.dataset.key;
    choose();
  };
}
for (const control of document.querySelectorAll(".filters input, .filters select")) control.oninput = choose;
byId("before").onclick = () => { state.page -= 1; show(); };
byId("after").onclick = () => { state.page += 1; show(); };
choose();
