// A conversation with the model of the server that this page comes from, by its public routes.

import { call, events, useKey } from "/page/server.js";
import { $, bytes, element, number, show, showError, write } from "/page/shown.js";
import { begun, request, store, stored } from "/page/talk.js";

const NAME = 64; // characters of a memory's name

let about = null; // what /page/about says
let memories = []; // of /v1/memories
let talk = stored() ?? begun(""); // what the next message goes on from
let chosen = talk.memory; // what the next conversation begins with
let answering = null; // aborts the answer that is written now

// -- The conversation -----------------------------------------------------------------------------

function showTalk() {
  for (const shown of $("log").querySelectorAll("p:not(#empty)")) shown.remove();
  $("empty").hidden = talk.turns.length > 0;
  for (const { said, written } of talk.turns) {
    show("said", said);
    show("written", written);
  }
  $("read").textContent = talk.tokens ? number(talk.tokens) : "–";
  $("cached").textContent = $("speed").textContent = "–";
}

function showNumbers(usage, tokens, seconds) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  $("read").textContent = number(tokens);
  $("cached").textContent = `${number(cached)} of ${number(usage.prompt_tokens)}`;
  const later = usage.completion_tokens - 1; // the first token also waited for the prompt
  $("speed").textContent = later > 0 && seconds ? `${(later / seconds).toFixed(1)} tokens/s` : "–";
}

async function answer(text) {
  const own = talk;
  const remembers = $("remember").checked;
  const abort = (answering = new AbortController());
  showError(null);
  show("said", text);
  const shown = show("written writing", "");
  busy(true);
  try {
    const { usage, seconds } = await stream(request(about, own, text, remembers), shown, abort.signal);
    if (remembers) keep(own, text, shown.textContent, usage);
    if (own === talk) showNumbers(usage, remembers ? own.tokens : usage.total_tokens, seconds);
    if (!remembers) show("note", "Without memory: the model has read this message only.");
  } catch (error) {
    if (own === talk) failed(text, shown, abort.signal.aborted ? null : error);
  } finally {
    shown.classList.remove("writing");
    if (answering === abort) busy(false);
  }
}

// The conversation goes on from where it was before `text`.
function failed(text, shown, error) {
  if (!talk.turns.length) {
    // The server keeps only what is finished; but it may have been, a moment before.
    forget(talk.session);
    talk.session = begun("").session;
  }
  if (error) {
    showError(error);
    $("text").value ||= text;
  }
  show("note", error ? "Not answered." : "Stopped; the conversation goes on without it.");
  if (!shown.textContent) shown.remove();
}

async function stream(body, shown, signal) {
  const response = await call(about.chat ? "/v1/chat/completions" : "/v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  let usage, first, last;
  for await (const event of events(response)) {
    usage = event.usage ?? usage;
    const [choice] = event.choices;
    const text = about.chat ? choice?.delta.content : choice?.text;
    if (!text) continue;
    last = performance.now();
    first ??= last;
    write(shown, text);
  }
  return { usage, seconds: (last - first) / 1000 };
}

function keep(own, said, written, usage) {
  const begin = memories.find((memory) => memory.name === own.memory)?.tokens ?? 0;
  const before = about.sessions && own.turns.length ? own.tokens : begin;
  own.tokens = before + usage.total_tokens;
  own.turns.push({ said, written });
  if (own === talk) store(talk);
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  if (!is) answering = null;
}

function send(event) {
  event?.preventDefault();
  const text = $("text").value;
  if (!about || answering || !text.trim()) return;
  $("text").value = "";
  answer(text);
}

function fresh() {
  answering?.abort();
  busy(false);
  if (about?.sessions && talk.turns.length) forget(talk.session);
  talk = begun(chosen);
  store(talk);
  showTalk();
  showChoice();
  showError(null);
  $("text").focus();
}

// A session may have expired, or been deleted, since the page was loaded last.
async function checkTalk() {
  if (!about.sessions || !talk.turns.length) return;
  try {
    await call(`/v1/sessions/${talk.session}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    fresh();
    show("note", "The server does not keep the earlier conversation any more; this is a new one.");
  }
}

// One that is not there is as good as forgotten.
function forget(session) {
  if (about.sessions) call(`/v1/sessions/${session}`, { method: "DELETE" }).catch(() => {});
}

// -- Memories -------------------------------------------------------------------------------------

async function loadMemories() {
  const response = await call("/v1/memories");
  memories = (await response.json()).data;
  if (!memories.some((memory) => memory.name === chosen)) choose("");
  $("memories").replaceChildren($("memories").firstElementChild, choice("", "None"));
  for (const { name, tokens } of memories) {
    const shown = choice(name, name, `${number(tokens)} tokens`);
    const save = element("button", "Save", { type: "button", title: `Save ${name}` });
    save.addEventListener("click", () => attempt(() => download(name)));
    const remove = element("button", "Delete", { type: "button", title: `Delete ${name}` });
    remove.addEventListener("click", () => attempt(() => removeMemory(name)));
    shown.append(save, remove);
    $("memories").append(shown);
  }
}

function choice(name, text, hint = "") {
  const shown = element("div", "", { className: "memory" });
  const input = element("input", "", { type: "radio", name: "memory", value: name });
  input.checked = name === chosen;
  input.addEventListener("change", () => choose(name));
  const label = element("label", "");
  label.append(input, ` ${text}`);
  if (hint) label.append(element("small", hint));
  shown.append(label);
  return shown;
}

function choose(name) {
  chosen = name;
  if (!talk.turns.length && !answering) {
    talk.memory = name;
    store(talk);
  }
  showChoice();
}

function showChoice() {
  $("later").hidden = chosen === talk.memory;
}

async function add(file) {
  const saved = file.name.endsWith(".memory");
  const name = freeName(file.name.replace(/\.(memory|txt)$/, ""));
  const [method, path] = saved
    ? ["PUT", `/v1/memories/${name}/content`]
    : ["POST", `/v1/memories?name=${name}`];
  const abort = new AbortController();
  const [said, stop] = $("work").children;
  stop.onclick = () => abort.abort();
  said.textContent = saved ? `Loading ${name} …` : `The model is reading ${name} …`;
  $("work").hidden = false;
  $("file").disabled = true;
  try {
    const headers = { "content-type": "application/octet-stream" };
    await call(path, { method, headers, body: file, signal: abort.signal });
    choose(name);
    await loadMemories();
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    $("work").hidden = true;
    $("file").disabled = false;
    $("file").value = ""; // so that the same file can be chosen again
  }
}

// No other memory is replaced.
function freeName(title) {
  const plain = title.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, NAME - 4).replace(/^[.-]+/, "");
  const base = plain || "memory";
  const taken = new Set(memories.map((memory) => memory.name));
  let name = base;
  for (let count = 2; taken.has(name); count++) name = `${base}-${count}`;
  return name;
}

async function download(name) {
  // Not by a link to the route: that would not send the key.
  const response = await call(`/v1/memories/${name}/content`);
  const href = URL.createObjectURL(await response.blob());
  element("a", "", { href, download: `${name}.memory` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // by then the browser has taken it
}

async function removeMemory(name) {
  if (!confirm(`Delete the memory ${name}? Conversations that began with it go on.`)) return;
  await call(`/v1/memories/${name}`, { method: "DELETE" });
  await loadMemories();
}

async function attempt(work) {
  showError(null);
  await work().catch(showError);
}

// -- Begin ----------------------------------------------------------------------------------------

async function begin() {
  try {
    about = await (await call("/page/about")).json();
    $("model").textContent = about.model;
    $("state").textContent = bytes(about.row_bytes);
    $("memories_section").hidden = !about.memories;
    $("no_memories").hidden = about.memories;
    $("key_form").hidden = true;
    if (about.memories) await loadMemories();
    await checkTalk();
    showError(null);
  } catch (error) {
    showError(error);
    if (error.status === 503) setTimeout(begin, 3000);
  }
}

$("say").addEventListener("submit", send);
$("stop").addEventListener("click", () => answering?.abort());
$("fresh").addEventListener("click", fresh);
$("file").addEventListener("change", () => attempt(() => add($("file").files[0])));
$("key_form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  begin();
});
addEventListener("key-wanted", () => {
  $("key_form").hidden = false;
  $("side").open = true;
  $("key").focus();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Escape") answering?.abort();
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
$("side").open = matchMedia("(min-width: 48.01rem)").matches;
showTalk();
showChoice();
begin();
