// Hugging Face's `InferenceClient`.

import { InferenceClient } from "@huggingface/inference";

import { CHAT, HTTP_URL, STREAMED, play } from "./play.mjs";

function argumentsFor({ token, runHeader, model, messages }) {
  const client = new InferenceClient(token, { endpointUrl: `${HTTP_URL}/v1/chat/completions` });
  // It asks again at once, and without end, after a status that it retries.
  const signal = AbortSignal.timeout(3000);
  const named = (url, info) => fetch(url, { ...info, headers: { ...info.headers, ...runHeader } });
  return [client, { model, messages }, { signal, fetch: named }];
}

async function chat(tested) {
  const [client, request, options] = argumentsFor(tested);
  return (await client.chatCompletion(request, options)).choices[0].message.content;
}

async function stream(tested) {
  const [client, request, options] = argumentsFor(tested);
  let text = "";
  for await (const chunk of client.chatCompletionStream(request, options)) {
    text += chunk.choices[0].delta.content ?? "";
  }
  return text;
}

await play("@huggingface/inference", "@huggingface/inference", chat, CHAT);
await play("@huggingface/inference stream", "@huggingface/inference", stream, STREAMED);
