// A table, and questions about it: a model turns each into SQL, which the server runs.

import { Cost, at, call, hideProblem, loadModels, post, showCredits, showProblem } from "./credits.js";

const MAX_FILE_BYTES = 1_048_576;
const BUTTONS = ["write", "run", "send-file"];

let models;
/** Ends the question that the model works on; undefined while none is asked. */
let running;

const say = (text) => { at("status").textContent = text; };
const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

function cell(value, isHead) {
  const box = document.createElement(isHead ? "th" : "td");
  if (isHead) box.scope = "col";
  if (value === null) {
    box.className = "none";
    box.textContent = "–";
  } else if (typeof value === "number") {
    box.className = "number";
    // Sums of binary fractions end in noise.
    box.textContent = String(Number(value.toPrecision(12)));
  } else {
    box.textContent = value;
    // Dates and names stay on one line.
    if (value.length <= 24) box.className = "short";
  }
  return box;
}

function show(table, columns, rows) {
  const row = (cells) => {
    const line = document.createElement("tr");
    line.append(...cells);
    return line;
  };
  const head = document.createElement("thead");
  const body = document.createElement("tbody");
  head.append(row(columns.map(({ name, title, isNumber }) => {
    const box = cell(name, true);
    if (isNumber) box.className = "number";
    if (title) box.title = title;
    return box;
  })));
  body.append(...rows.map((values) => row(values.map((value) => cell(value, false)))));
  table.replaceChildren(head, body);
  table.hidden = false;
}

function showTable({ name, columns, rows, row_count: all }) {
  show(at("table"), columns.map(({ name: column, type }) => ({ name: column, title: type, isNumber: type !== "TEXT" })), rows);
  const shown = rows.length < all ? `, of which you see the first ${rows.length}` : "";
  at("table-words").textContent = `${name} has ${count(columns.length, "column")} and ${count(all, "row")}${shown}.`;
  const choice = columns.find(({ type }) => type === "TEXT") ? "by" : "of";
  at("question").placeholder = name === "sales" ? "Average amount by product" : `Number of ${name} ${choice} …`;
}

function showRows({ columns, rows, truncated, milliseconds }) {
  const isNumber = (index) => rows.some((row) => typeof row[index] === "number");
  show(at("rows"), columns.map((name, index) => ({ name, isNumber: isNumber(index) })), rows);
  const words = rows.length === 0 ? "No rows" : truncated ? `The first ${count(rows.length, "row")}; there are more` : count(rows.length, "row");
  at("result-words").textContent = `${words}, in ${milliseconds} ms.`;
  at("result").hidden = false;
}

/** Runs a task, one at a time, and shows what went wrong. */
async function work(task) {
  const focused = document.activeElement;
  hideProblem();
  BUTTONS.forEach((id) => { at(id).disabled = true; });
  try {
    await task();
  } catch (error) {
    say("");
    if (error.name !== "AbortError") showProblem(error);
    else say("Stopped.");
  } finally {
    BUTTONS.forEach((id) => { at(id).disabled = id === "write" && !models; });
    // A disabled button loses the focus, which whoever moved on meanwhile keeps where it is.
    if (document.activeElement === document.body && focused) focused.focus();
  }
}

async function query() {
  say("The query is running.");
  at("result").hidden = true;
  const answer = await (await post("/data-studio/query", { sql: at("sql").value })).json();
  showRows(answer);
  say("Done.");
}

async function ask() {
  const cost = new Cost(models.price(), "data-studio");
  say("The model is writing SQL.");
  running = new AbortController();
  at("stop").hidden = false;
  at("result").hidden = true;
  try {
    const body = { question: at("question").value, model: at("model").value };
    const response = await post("/data-studio/sql", body, { signal: running.signal });
    const { sql } = await response.json();
    // Rows need not wait for the cost.
    cost.ended(response.headers.get("inference-id"));
    at("sql").value = sql;
  } catch (error) {
    if (error.name === "AbortError") cost.ended();
    else cost.refused();
    throw error;
  } finally {
    running = undefined;
    at("stop").hidden = true;
  }
  await query();
}

async function upload() {
  const [file] = at("file").files;
  if (!file) return;
  if (file.size > MAX_FILE_BYTES) throw new Error("The file is larger than 1 MiB. Upload a part of it.");
  say("The file is being uploaded.");
  const name = encodeURIComponent(file.name.replace(/\.[^.]*$/, ""));
  const response = await call(`/data-studio/table?name=${name}`, { method: "PUT", headers: { "content-type": "text/csv" }, body: file });
  showTable(await response.json());
  at("result").hidden = true;
  at("sql").value = "";
  say("Uploaded.");
}

for (const [id, task] of [["ask", ask], ["query", query], ["upload", upload]]) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    if (at("run").disabled) return;
    // What is said of a form stands below it.
    at(id).after(at("problem"), at("status"));
    work(task);
  });
}
at("stop").addEventListener("click", () => running?.abort());

// Each part is shown if another one cannot be.
const parts = await Promise.allSettled([
  call("/data-studio/table").then((response) => response.json()).then(showTable),
  loadModels().then((loaded) => {
    models = loaded;
    at("write").disabled = false;
  }),
  showCredits(),
]);
const failed = parts.find(({ status }) => status === "rejected");
if (failed) showProblem(failed.reason);
if (parts[0].status === "rejected") at("table-words").textContent = "The table could not be loaded.";
