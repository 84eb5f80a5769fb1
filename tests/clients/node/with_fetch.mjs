// Node's own `fetch` (undici).

import { HTTP_URL, RAW, play } from "./play.mjs";

async function post({ upload, body, headers }) {
  const json = { ...headers, "content-type": "application/json" };
  const signal = AbortSignal.timeout(30_000);
  const response = upload
    ? await fetch(`${HTTP_URL}/upload`, {
        method: "POST",
        headers,
        body: new Uint8Array(upload),
        signal,
      })
    : await fetch(`${HTTP_URL}/v1/chat/completions`, {
        method: "POST",
        headers: json,
        body: JSON.stringify(body),
        signal,
      });
  return { status: response.status, text: await response.text() };
}

await play("fetch", "node", post, RAW);
