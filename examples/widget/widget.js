// Sends a sound to be denoised as the browser's own user, plays it before and after, and says what that cost.

const at = (id) => document.getElementById(id);
const RATE = 48_000;
const NANO = 1_000_000_000n;

let pcm = new ArrayBuffer(0);

const say = (text) => { at("status").textContent = text; };

/** Exact dollars of whole nano-dollars. */
function dollars(nanos) {
  const part = (nanos % NANO).toString().padStart(9, "0").replace(/0+$/, "").padEnd(2, "0");
  return `$${nanos / NANO}.${part}`;
}

/** 16-bit mono PCM as a WAV file, which browsers play. */
function wav(samples) {
  const head = new DataView(new ArrayBuffer(44));
  const text = (offset, word) => [...word].forEach((letter, i) => head.setUint8(offset + i, letter.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + samples.byteLength, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, RATE, true); head.setUint32(28, 2 * RATE, true); head.setUint16(32, 2, true); head.setUint16(34, 16, true);
  text(36, "data"); head.setUint32(40, samples.byteLength, true);
  return new Blob([head, samples], { type: "audio/wav" });
}

function play(element, samples) {
  URL.revokeObjectURL(element.src);
  element.src = URL.createObjectURL(wav(samples));
  element.hidden = false;
}

function take(samples, from) {
  pcm = samples;
  at("source").textContent = from;
  play(at("before"), pcm);
  at("after").hidden = true;
  at("run").disabled = false;
  say("");
}

/** Three seconds of the microphone, as the network takes them. */
async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, noiseSuppression: false } });
  const recorder = new MediaRecorder(stream);
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  say("Recording.");
  setTimeout(() => recorder.stop(), 3_000);
  await stopped;
  stream.getTracks().forEach((track) => track.stop());
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await new Blob(chunks).arrayBuffer());
  const samples = Int16Array.from(sound.getChannelData(0), (sample) => Math.max(-1, Math.min(1, sample)) * 32_767);
  take(samples.buffer, `Your recording: ${sound.duration.toFixed(1)} seconds.`);
}

/** What this widget used this month. */
async function bill() {
  const response = await fetch("/billing.json");
  if (!response.ok) throw await denied(response);
  const { lines, held_nano_usd: held } = await response.json();
  const used = { requests: 0, micros: 0, nanos: 0n, settled: held === 0 };
  for (const line of lines.filter((line) => line.feature === "widget")) {
    used.requests += line.requests;
    used.micros += Math.round(line.compute_seconds * 1e6);
    used.nanos += BigInt(line.cost_nano_usd);
  }
  return used;
}

/** Why the server denied, in its own words. */
async function denied(response) {
  const problem = await response.json().catch(() => ({}));
  const error = new Error(problem.detail ?? `The server answered ${response.status}.`);
  error.signIn = response.status === 401;
  return error;
}

/** The bill once this run stands on it. */
async function billAfter(before) {
  for (let tries = 0; tries < 100; tries += 1) {
    const now = await bill();
    if (now.requests > before.requests && now.settled) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("The run is not on the bill yet.");
}

async function run() {
  at("after").hidden = true;
  say("The noise is being removed.");
  const before = await bill();
  const response = await fetch("/widget/rnnoise", { method: "POST", body: pcm });
  if (!response.ok) throw await denied(response);
  // A request whose credits end midway is cut off, and never looks whole.
  const cut = () => { throw new Error("The answer was cut off: credits that end meanwhile end it."); };
  play(at("after"), await response.arrayBuffer().catch(cut));
  say("Done.");
  const now = await billAfter(before);
  at("cost").textContent = dollars(now.nanos - before.nanos);
  at("compute").textContent = `${((now.micros - before.micros) / 1e6).toFixed(6)} s`;
  at("used").textContent = dollars(now.nanos);
}

/** Runs what a button is for, and says what went wrong. */
function on(id, work) {
  at(id).addEventListener("click", async () => {
    at(id).disabled = true;
    try {
      await work();
    } catch (error) {
      say(error.signIn ? "Sign in first: " : error.message);
      if (error.signIn) at("status").append(Object.assign(document.createElement("a"), { href: "/billing", textContent: "to the billing page" }));
    } finally {
      at(id).disabled = false;
      at(id).focus();
    }
  });
}

on("run", run);
on("record", record);
const sample = await fetch("/widget/noisy.pcm");
take(await sample.arrayBuffer(), at("source").textContent);
