// gRPC's own client for Node: by default, and with a service config that retries.

import grpc from "@grpc/grpc-js";

import { GRPC, GRPC_URL, play } from "./play.mjs";

const METHOD = "/denoise.v1.Denoise/";
// `Audio { pcm: [0; 4] }`
const AUDIO = Buffer.from([0x0a, 4, 0, 0, 0, 0]);
const RETRIES = JSON.stringify({
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.1s",
        maxBackoff: "0.2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
      },
    },
  ],
});

const asIs = (bytes) => bytes;

function open({ headers }, options = {}) {
  const address = GRPC_URL.replace("http://", "");
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  return [client, metadata, { deadline: Date.now() + 8000 }];
}

function unary(tested, settings) {
  const [client, metadata, options] = open(tested, settings);
  return new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer.length));
    client.makeUnaryRequest(METHOD + "Whole", asIs, asIs, AUDIO, metadata, options, done);
  }).finally(() => client.close());
}

function stream(tested) {
  const [client, metadata, options] = open(tested);
  const answers = client.makeServerStreamRequest(
    ...[METHOD + "Split", asIs, asIs, AUDIO, metadata, options],
  );
  return new Promise((resolve, reject) => {
    let count = 0;
    answers.on("data", () => count++);
    answers.on("error", reject);
    answers.on("end", () => resolve(count));
  }).finally(() => client.close());
}

await play("grpc-js", "@grpc/grpc-js", unary, GRPC);
await play("grpc-js stream", "@grpc/grpc-js", stream, [...GRPC, "cut"]);
const retrying = (tested) => unary(tested, { "grpc.service_config": RETRIES });
await play("grpc-js retrying", "@grpc/grpc-js", retrying, GRPC);
