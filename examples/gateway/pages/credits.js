// Shared by the pages: what a request costs, what credits are left, and why the server refused.

const NANO = 1_000_000_000n;
const POLL_MS = 100;
const POLL_FOR_MS = 5_000;

export const at = (id) => document.getElementById(id);

/** Exact dollars of whole nano-dollars. */
function dollars(nanos) {
  const part = (nanos % NANO).toString().padStart(9, "0").replace(/0+$/, "").padEnd(2, "0");
  return `$${nanos / NANO}.${part}`;
}

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** What the server said instead of an answer. */
export class Denied extends Error {
  constructor(detail, status, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The words of a problem, of this server's or of the model's server behind it. */
export function detailOf(problem) {
  const detail = problem?.detail ?? problem?.error?.message ?? problem?.title;
  return typeof detail === "string" && detail.trim() ? detail : undefined;
}

async function denied(response) {
  const problem = await response.json().catch(() => undefined);
  const detail = detailOf(problem) ?? `The server answered ${response.status} ${response.statusText}`.trim();
  return new Denied(detail, response.status, response.headers.get("retry-after"));
}

/** An answer of the server. Throws if there is none, or if it is a refusal. */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Check your connection, and try again.");
  }
  if (!response.ok) throw await denied(response);
  return response;
}

export const post = (path, body, options = {}) => call(path, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
  ...options,
});

/** When to try again, of a Retry-After: seconds, or a date. */
function retry(after) {
  const seconds = /^\d+$/.test(after) ? Number(after) : Math.ceil((Date.parse(after) - Date.now()) / 1_000);
  if (!Number.isFinite(seconds)) return "";
  return seconds <= 1 ? "Try again in a second." : `Try again in ${seconds} seconds.`;
}

/** Moments in a text, as the billing page writes them. */
function readable(text) {
  const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeZone: "UTC" });
  const moment = /(\d{4}-\d\d-\d\d)T(\d\d:\d\d):00Z/g;
  return text.replace(moment, (_, day, time) => `${date.format(new Date(day))}, ${time} UTC`);
}

/** Shows why something did not work, and where to go from there. */
export function showProblem(error) {
  const problem = at("problem");
  // The server's own sentence is about tokens, which pages do not send.
  const words = [error.status === 401 ? "Sign in first:" : readable(error.message).replace(/([^.!?…])$/, "$1.")];
  if (error.retryAfter && !/try again/i.test(error.message)) words.push(retry(error.retryAfter));
  problem.textContent = words.filter(Boolean).join(" ");
  const links = { 401: "to the billing page", 402: "Go to the billing page" };
  if (links[error.status]) {
    problem.append(" ", Object.assign(document.createElement("a"), { href: "/billing", textContent: links[error.status] }));
  }
  problem.hidden = false;
  problem.scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  at("problem").hidden = true;
  at("problem").textContent = "";
}

/** The latest bill that was read while nothing was on hold: all of it is settled. */
let settled;
let latestReading = 0;

/** Shows what is left of the included credits, and reads on until the bill is settled. Returns it then. */
export async function showCredits() {
  const reading = ++latestReading;
  const until = performance.now() + POLL_FOR_MS;
  for (;;) {
    const bill = await (await call("/billing.json")).json();
    // A later call shows newer figures.
    if (reading !== latestReading) return undefined;
    const [included, used] = [BigInt(bill.included_nano_usd), BigInt(bill.used_nano_usd)];
    const left = included > used ? included - used : 0n;
    at("left").textContent = `${dollars(left)} of ${dollars(included)}`;
    if (bill.held_nano_usd === 0) {
      settled = bill;
      return bill;
    }
    if (performance.now() > until) return undefined;
    await pause(POLL_MS);
  }
}

/** What the bill's lines of a feature add up to. */
function usage({ lines }, feature) {
  const sum = (name) => lines.filter((line) => line.feature === feature).reduce((all, line) => all + line[name], 0);
  return { requests: sum("requests"), cost: sum("cost_nano_usd"), seconds: sum("compute_seconds") };
}

/** The cost of the only request of a feature between two settled bills; undefined if it was not the only one. */
function costBetween(earlier, later, feature) {
  if (earlier?.period !== later?.period || !later) return undefined;
  const [before, after] = [usage(earlier, feature), usage(later, feature)];
  if (after.requests !== before.requests + 1) return undefined;
  return { cost_nano_usd: after.cost - before.cost, compute_seconds: after.seconds - before.seconds };
}

/** The cost of a request whose answer was whole, as the server was told it at the end. */
async function costTold(request) {
  try {
    return await (await post("/playground/cost", { request_id: request })).json();
  } catch {
    return undefined;
  }
}

/** Fills the choice of models, and says what each costs. */
export async function loadModels() {
  // Prices are known if the models are not, and the other way around.
  const [models, prices] = await Promise.allSettled([call("/v1/models"), call("/playground/prices")]);
  if (models.status === "rejected") throw models.reason;
  const { data } = await models.value.json();
  const priced = prices.status === "fulfilled" ? (await prices.value.json()).models : [];
  const choice = at("model");
  choice.replaceChildren(...data.map(({ id }) => new Option(id, id)));
  choice.disabled = data.length === 0;
  if (data.length === 0) throw new Error("The server has no models at the moment.");
  const price = () => priced.find(({ model }) => model === choice.value);
  const say = () => {
    const found = price();
    at("price").textContent = found ? `${dollars(BigInt(found.price_per_second_nano_usd))} per second on ${found.hardware}` : "";
  };
  choice.addEventListener("change", say);
  say();
  return { price };
}

/** The figures of one request: an estimate while it runs, and then what it cost. */
export class Cost {
  /** The one whose figures are shown. */
  static #latest;
  #started = performance.now();
  #before = settled;
  #timer;
  #price;
  #feature;

  constructor(price, feature) {
    this.#price = price?.price_per_second_nano_usd;
    this.#feature = feature;
    Cost.#latest = this;
    this.#show();
    this.#note("Estimated from the time that you wait.");
    this.#timer = setInterval(() => this.#show(), 100);
  }

  #show() {
    const seconds = (performance.now() - this.#started) / 1_000;
    const cost = this.#price === undefined ? "–" : `≈ $${(seconds * this.#price / 1e9).toFixed(7)}`;
    this.#say(cost, `≈ ${seconds.toFixed(1)} s`, true);
  }

  #say(cost, compute, isEstimate) {
    if (Cost.#latest !== this) return;
    for (const [id, text] of [["cost", cost], ["compute", compute]]) {
      at(id).textContent = text;
      at(id).classList.toggle("estimate", isEstimate);
    }
  }

  #note(text) {
    if (Cost.#latest === this) at("cost-note").textContent = text;
  }

  /** The request was refused, so it cost nothing: unless credits ran out before there was an answer. */
  async refused() {
    clearInterval(this.#timer);
    this.#say("–", "–", false);
    this.#note("");
    await this.#readBill();
  }

  /**
   * The request has ended: replaces the estimate as soon as the exact cost is known, which the server
   * is told of answers that were whole. Of others the bill says it. Then shows the credits that are left.
   */
  async ended(request) {
    clearInterval(this.#timer);
    this.#show();
    const told = request && await costTold(request);
    if (told) this.#exact(told);
    else this.#note("Estimated from the time that you waited. The exact cost will be on your bill.");
    await this.#readBill(told);
  }

  /** Shows the credits that are left and, if it was not told, the cost that the bill says. */
  async #readBill(told) {
    // A bill that cannot be read is no reason to hide what was answered.
    const bill = await showCredits().catch(() => {});
    const billed = told ? undefined : costBetween(this.#before, bill, this.#feature);
    if (billed) this.#exact(billed);
  }

  #exact({ cost_nano_usd: cost, compute_seconds: seconds }) {
    this.#say(dollars(BigInt(cost)), `${seconds.toFixed(6)} s`, false);
    this.#note("The exact cost, as on your bill.");
  }
}
