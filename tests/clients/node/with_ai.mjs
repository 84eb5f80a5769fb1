// Vercel's AI SDK, with its provider for servers that speak OpenAI's API.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

import { CHAT, HTTP_URL, STREAMED, play } from "./play.mjs";

function modelFor({ token, runHeader, model }) {
  const baseURL = `${HTTP_URL}/v1`;
  const provider = createOpenAICompatible({
    name: "metered",
    baseURL,
    apiKey: token,
    headers: runHeader,
  });
  return provider(model);
}

async function chat(tested) {
  return (await generateText({ model: modelFor(tested), prompt: tested.prompt })).text;
}

async function stream(tested) {
  const onError = () => {};
  const result = streamText({ model: modelFor(tested), prompt: tested.prompt, onError });
  let text = "";
  for await (const part of result.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  return text;
}

await play("ai", "ai", chat, CHAT);
await play("ai stream", "ai", stream, STREAMED);
