// A conversation with a model, as the browser's own user: the answer streams in, and shows what it costs.

import { Cost, Denied, at, detailOf, hideProblem, loadModels, post, showCredits, showProblem } from "./credits.js";

const MAX_TOKENS = 512;

/** What was said, as the model is told it. */
let messages = [];
let models;
/** Ends the answer that streams; undefined while none does. */
let running;

const say = (text) => { at("status").textContent = text; };

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

function bubble(role, name, text) {
  const item = element("li", role);
  const words = element("p", "words", text);
  item.append(element("h3", "", name), words);
  at("conversation").append(item);
  at("empty").hidden = true;
  item.scrollIntoView({ block: "nearest" });
  return { item, words };
}

/** The events of a stream, as { event, data }. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    // A carriage return at the end may be the first half of a line break.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0) yield { event, data: data.join("\n") };
        event = "message";
        data = [];
      } else if (line.startsWith("event:")) {
        event = line.slice(6).trim();
      } else if (line.startsWith("data:")) {
        data.push(line.slice(5).replace(/^ /, ""));
      }
    }
  }
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return undefined;
  }
}

/** Reads an answer into `words`. Returns why it is not whole, if it is not. */
async function read(response, words) {
  let finish;
  try {
    for await (const { event, data } of events(response)) {
      if (data === "[DONE]") return finish === "length" ? `The answer was ended at ${MAX_TOKENS} tokens.` : undefined;
      const chunk = parsed(data);
      if (event === "error" || chunk?.error) {
        throw new Denied(detailOf(chunk) ?? "The answer was cut off by the server.", chunk?.status);
      }
      const choice = chunk?.choices?.[0];
      finish = choice?.finish_reason ?? finish;
      if (choice?.delta?.content) words.append(choice.delta.content);
    }
  } catch (error) {
    if (error instanceof Denied || error.name === "AbortError") throw error;
    throw new Error("The answer was cut off: the connection broke. What ran is paid.");
  }
  // A server that ends with the choice's last chunk, and without [DONE], is whole, too.
  if (finish) return undefined;
  throw new Error("The answer was cut off: it ended too early. What ran is paid.");
}

/** Asks for an answer, and shows it as it comes. */
async function answer(question) {
  const asked = bubble("you", "You", question);
  const model = at("model").value;
  const cost = new Cost(models.price(), "playground");
  say("The model is thinking.");
  let response;
  try {
    const body = { model, messages: [...messages, { role: "user", content: question }], stream: true, max_tokens: MAX_TOKENS };
    response = await post("/playground/chat/completions", body, { signal: running.signal });
  } catch (error) {
    if (error.name === "AbortError") {
      say("Stopped.");
      cost.ended();
    } else {
      say("");
      cost.refused();
    }
    // Nothing was answered, so the question can be sent again.
    asked.item.remove();
    at("empty").hidden = at("conversation").children.length > 0;
    if (!at("message").value) at("message").value = question;
    throw error;
  }
  const { item, words } = bubble("model", model, "");
  item.dataset.streams = "";
  at("conversation").setAttribute("aria-busy", "true");
  say("The model is answering.");
  let problem;
  let isWhole = false;
  try {
    const note = await read(response, words);
    isWhole = true;
    say(note ?? "Done.");
  } catch (error) {
    const stopped = error.name === "AbortError";
    item.append(element("p", "cut", stopped ? "You stopped the answer here." : "The answer was cut off here."));
    say(stopped ? "Stopped." : "The answer was cut off.");
    if (!stopped) problem = error;
  } finally {
    delete item.dataset.streams;
    at("conversation").setAttribute("aria-busy", "false");
  }
  messages.push({ role: "user", content: question });
  if (words.textContent) messages.push({ role: "assistant", content: words.textContent });
  else messages.pop();
  if (problem) showProblem(problem);
  // The next question need not wait for the cost of this one.
  cost.ended(isWhole ? response.headers.get("inference-id") : undefined);
}

async function send() {
  const question = at("message").value.trim();
  if (running || !models || !question) return;
  running = new AbortController();
  hideProblem();
  at("message").value = "";
  at("send").disabled = true;
  at("new").disabled = true;
  at("stop").hidden = false;
  try {
    await answer(question);
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    const focused = [at("stop"), document.body].includes(document.activeElement);
    running = undefined;
    at("send").disabled = false;
    at("new").disabled = false;
    at("stop").hidden = true;
    if (focused) at("message").focus();
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", () => {
  messages = [];
  at("conversation").replaceChildren();
  at("empty").hidden = false;
  say("");
  hideProblem();
  at("message").focus();
});

try {
  models = await loadModels();
  at("send").disabled = false;
  await showCredits();
} catch (error) {
  showProblem(error);
}
