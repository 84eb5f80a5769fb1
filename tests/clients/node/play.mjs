// Plays the cases of `cases.json` with a client, and prints a line of JSON for each.
// `scripts/clients` runs a copy that lies beside `node_modules`.

import { readFileSync } from "node:fs";

export const HTTP_URL = process.env.HTTP_URL.replace(/\/$/, "");
export const GRPC_URL = (process.env.GRPC_URL ?? "").replace(/\/$/, "");
// Where the server itself answers what it has seen, if there is a proxy in front.
const SEEN_URL = (process.env.SEEN_URL ?? HTTP_URL).replace(/\/$/, "");
// Which cases and clients run. Default: all.
const ONLY_CASES = (process.env.CASES ?? "").split(" ").filter(Boolean);
const ONLY_CLIENTS = (process.env.CLIENTS ?? "").split(",").filter(Boolean);
const CASES = JSON.parse(readFileSync(new URL("../cases.json", import.meta.url)));

export const DENIED = ["no-token", "wrong", "used-up", "limited", "unknown", "too-large"];
export const RETRIED = ["rate-short", "rate-long", "on-hold", "away"];
// Of a client that calls a model.
export const CHAT = ["good", ...DENIED, ...RETRIED];
export const STREAMED = ["good", ...DENIED, ...RETRIED, "cut"];
// Of a client that sends what it is given.
export const RAW = [
  ...["good", ...DENIED, "no-model", ...RETRIED, "cut", "torn"],
  ...["upload-2", "upload-8", "upload-20"],
];
export const GRPC = ["good", "no-token", "wrong", "used-up", "limited", ...RETRIED];

let number = 0;

// One request of a case: what to send.
export function caseOf(name, client) {
  const { token = name, model = "echo", size = 5, upload = 0, stream = false } = CASES[name];
  const run = `${client.replaceAll(" ", "-").replaceAll("/", "")}-${process.pid}-${++number}`;
  const sent = name === "no-token" ? undefined : `${token}.${run}`;
  const prompt = "x".repeat(size);
  const messages = [{ role: "user", content: prompt }];
  return {
    name,
    key: sent ?? run,
    token: sent,
    // The fields that name the case, for clients that send what they are given.
    headers: sent ? { authorization: `Bearer ${sent}` } : { "x-run": run },
    // The field that names a case without a token.
    runHeader: sent ? {} : { "x-run": run },
    model,
    prompt,
    messages,
    upload,
    body: { ...(model === null ? {} : { model }), messages, stream },
  };
}

export async function seen(key) {
  return (await fetch(`${SEEN_URL}/seen/${key}`)).json();
}

function statusOf(error) {
  const values = [error.statusCode, error.status, error.httpResponse?.status];
  const number = values.find((value) => typeof value === "number");
  return number ?? error.code ?? null;
}

export function versionOf(name) {
  if (name === "node") return process.version.slice(1);
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return JSON.parse(readFileSync(manifest)).version;
}

// Plays cases with `call(case)`. It returns a text, or `{ status, text }`.
export async function play(client, name, call, cases) {
  if (ONLY_CLIENTS.length > 0 && !ONLY_CLIENTS.includes(client)) return;
  for (const caseName of cases) {
    if (ONLY_CASES.length > 0 && !ONLY_CASES.includes(caseName)) continue;
    for (let time = 0; time < (CASES[caseName].times ?? 1); time++) {
      const tested = caseOf(caseName, client);
      const began = performance.now();
      let outcome;
      let error = null;
      try {
        outcome = await call(tested);
        if (typeof outcome !== "object") outcome = { status: 200, text: String(outcome) };
      } catch (thrown) {
        error = thrown;
        outcome = { status: statusOf(thrown.lastError ?? thrown), text: thrown.message };
      }
      const seconds = (performance.now() - began) / 1000;
      const { tries, at, headers = {} } = await seen(tested.key);
      const gaps = at.slice(1).map((after, index) => after - at[index]);
      for (const secret of ["authorization", "x-api-key"]) delete headers[secret];
      const line = {
        client,
        version: versionOf(name),
        via: process.env.VIA ?? "",
        case: caseName,
        tries,
        seconds: Number(seconds.toFixed(2)),
        longest_wait: Number(Math.max(0, ...gaps).toFixed(2)),
        exception: error && (error.constructor?.name ?? "Error"),
        status: outcome.status,
        printed: outcome.text.slice(-1500),
        sent: headers,
      };
      console.log(JSON.stringify(line));
    }
  }
}
