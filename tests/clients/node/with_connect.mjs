// Connect's client for Node: gRPC, and gRPC-Web over HTTP/1.1.

import { readFileSync } from "node:fs";
import { Agent } from "node:http";

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

import { GRPC, GRPC_URL, caseOf, play } from "./play.mjs";

// The services of `examples/denoise`.
const descriptors = readFileSync(process.env.DESCRIPTORS);
const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors));
const SERVICE = files.getService("denoise.v1.Denoise");
const AUDIO = { pcm: new Uint8Array(4) };

const overGrpc = createClient(SERVICE, createGrpcTransport({ baseUrl: GRPC_URL }));

let connections = 0;

// Counts the connections that it opens.
class CountingAgent extends Agent {
  createConnection(...parameters) {
    connections++;
    return super.createConnection(...parameters);
  }
}

const agent = new CountingAgent({ keepAlive: true, maxSockets: 1 });
const overWeb = createClient(
  SERVICE,
  createGrpcWebTransport({ baseUrl: GRPC_URL, httpVersion: "1.1", nodeOptions: { agent } }),
);

const unary = (client) => async ({ headers }) => {
  const answer = await client.whole(AUDIO, { headers, timeoutMs: 8000 });
  return answer.pcm.length;
};

const stream = (client) => async ({ headers }) => {
  let count = 0;
  for await (const _ of client.split(AUDIO, { headers, timeoutMs: 8000 })) count++;
  return count;
};

// After a denied call, thirty good ones on the same connection.
async function thirty({ headers }) {
  const denied = caseOf("used-up", "connect grpc-web");
  const before = connections;
  const refused = await overWeb.whole(AUDIO, { headers: denied.headers }).catch((error) => error);
  if (!(refused instanceof Error)) throw new Error("the first call was not denied");
  for (let call = 0; call < 30; call++) await overWeb.whole(AUDIO, { headers, timeoutMs: 8000 });
  if (connections > before + 1) throw new Error(`${connections - before} connections`);
  return "thirty good calls";
}

const PACKAGE = "@connectrpc/connect-node";
await play("connect gRPC", PACKAGE, unary(overGrpc), GRPC);
await play("connect gRPC stream", PACKAGE, stream(overGrpc), [...GRPC, "cut"]);
await play("connect gRPC-Web", PACKAGE, unary(overWeb), GRPC);
await play("connect gRPC-Web stream", PACKAGE, stream(overWeb), [...GRPC, "cut"]);
await play("connect gRPC-Web", PACKAGE, thirty, ["after-denied"]);
// Its session keeps the process alive.
process.exit();
