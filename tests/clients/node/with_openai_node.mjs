// OpenAI's SDK.

import OpenAI from "openai";

import { CHAT, HTTP_URL, STREAMED, play } from "./play.mjs";

function clientFor({ token, runHeader }) {
  const defaultHeaders = { ...runHeader, ...(token ? {} : { Authorization: null }) };
  return new OpenAI({ baseURL: `${HTTP_URL}/v1`, apiKey: token ?? "none", defaultHeaders });
}

async function chat(tested) {
  const { model, messages, body } = tested;
  const client = clientFor(tested);
  if (model === null) return client.post("/chat/completions", { body });
  const answer = await client.chat.completions.create({ model, messages });
  return answer.choices[0].message.content;
}

async function stream(tested) {
  const { model, messages } = tested;
  const chunks = await clientFor(tested).chat.completions.create({ model, messages, stream: true });
  let text = "";
  for await (const chunk of chunks) text += chunk.choices[0].delta.content ?? "";
  return text;
}

await play("openai-node", "openai", chat, [...CHAT, "no-model"]);
await play("openai-node stream", "openai", stream, STREAMED);
