// Sends a sound to be denoised as the browser's own user, plays it before and after, and says what that cost.

const at = (id) => document.getElementById(id);
const RATE = 48_000;
const NANO = 1_000_000_000n;
const FIGURES = ["cost", "compute", "used"];
const BUTTONS = ["run", "record"];

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
  say("");
}

/** What is recorded while a recorder runs. */
async function recorded(stream, milliseconds) {
  const recorder = new MediaRecorder(stream);
  const chunks = [];
  recorder.ondataavailable = (event) => chunks.push(event.data);
  const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start();
  setTimeout(() => recorder.stop(), milliseconds);
  await stopped;
  return new Blob(chunks).arrayBuffer();
}

/** Three seconds of the microphone, as the network takes them. */
async function record() {
  if (!navigator.mediaDevices) throw new Error("This browser gives pages no microphone here: open the page with https, or on the server's own machine.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, noiseSuppression: false } });
  let sound;
  try {
    say("Recording.");
    sound = await recorded(stream, 3_000);
  } finally {
    stream.getTracks().forEach((track) => track.stop());
  }
  sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(sound);
  const samples = Int16Array.from(sound.getChannelData(0), (sample) => Math.max(-1, Math.min(1, sample)) * 32_767);
  take(samples.buffer, `Your recording: ${sound.duration.toFixed(1)} seconds.`);
}

/** What this widget used this month. */
async function bill() {
  const response = await fetch("/billing.json");
  if (!response.ok) throw await denied(response);
  const { lines } = await response.json();
  const used = { requests: 0, micros: 0, nanos: 0n };
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

/** Shows the bill once this run stands on it: a moment after it ended. */
async function showBill(before) {
  for (let tries = 0; tries < 100; tries += 1) {
    const now = await bill();
    const runs = now.requests - before.requests;
    if (runs > 0) {
      // Another page of the same user may have run it, too.
      at("cost").textContent = dollars(now.nanos - before.nanos) + (runs > 1 ? ` for ${runs} runs` : "");
      at("compute").textContent = `${((now.micros - before.micros) / 1e6).toFixed(6)} s`;
      at("used").textContent = dollars(now.nanos);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error("The run is not on the bill yet.");
}

async function run() {
  at("after").hidden = true;
  FIGURES.forEach((id) => { at(id).textContent = "–"; });
  say("The noise is being removed.");
  const before = await bill();
  const response = await fetch("/widget/rnnoise", { method: "POST", body: pcm });
  if (!response.ok) throw await denied(response);
  try {
    play(at("after"), await response.arrayBuffer());
    say("Done.");
  } catch {
    // A request whose credits end midway is cut off, and never looks whole. What ran is paid all the same.
    say("The answer was cut off: the connection broke, or your credits ended meanwhile.");
  }
  await showBill(before);
}

/** Runs what a button is for, one at a time, and says what went wrong. */
async function work(task, button) {
  const focused = document.activeElement === at(button);
  BUTTONS.forEach((id) => { at(id).disabled = true; });
  try {
    await task();
  } catch (error) {
    say(error.signIn ? "Sign in first: " : error.message);
    if (error.signIn) at("status").append(Object.assign(document.createElement("a"), { href: "/billing", textContent: "to the billing page" }));
  } finally {
    BUTTONS.forEach((id) => { at(id).disabled = false; });
    // A disabled button loses the focus, which whoever moved on meanwhile keeps where it is.
    if (focused && document.activeElement === document.body) at(button).focus();
  }
}

at("run").addEventListener("click", () => work(run, "run"));
at("record").addEventListener("click", () => work(record, "record"));
work(async () => {
  const sample = await fetch("/widget/noisy.pcm");
  if (!sample.ok) throw await denied(sample);
  take(await sample.arrayBuffer(), at("source").textContent);
});
