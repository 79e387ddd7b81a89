// A conversation: its session on the server, the memory that it begins with, and what was said.

import { $ } from "/page/shown.js";

const TALK = "melodi.conversation"; // in the session's storage: gone when the tab is closed

// A new one.  By the begin of its name the server knows that it may forget it after a day.
export function begun(memory) {
  const random = [...crypto.getRandomValues(new Uint8Array(12))];
  const session = `page-${random.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  return { session, memory, turns: [], tokens: 0 };
}

// A page that is loaded again goes on with its conversation.
export function stored() {
  return JSON.parse(sessionStorage.getItem(TALK));
}

export function store(talk) {
  try {
    sessionStorage.setItem(TALK, JSON.stringify(talk));
  } catch {
    sessionStorage.removeItem(TALK); // too long for the browser: it lives as long as the page
  }
}

// What is asked for the answer to a text; only with what came before if it remembers.
export function request(about, talk, text, remembers) {
  const before = remembers && !about.sessions ? talk.turns : [];
  const body = { stream: true, stream_options: { include_usage: true } };
  body.temperature = $("temperature").valueAsNumber || 0;
  body[about.chat ? "max_completion_tokens" : "max_tokens"] = $("tokens").valueAsNumber || 1;
  if (about.chat) {
    body.messages = before.flatMap((turn) => [
      { role: "user", content: turn.said },
      { role: "assistant", content: turn.written },
    ]);
    body.messages.push({ role: "user", content: text });
  } else {
    body.prompt = before.map((turn) => turn.said + turn.written).join("") + text;
  }
  if (remembers && about.sessions) body.session = talk.session;
  // A session that has begun has read the memory already.
  if (remembers && talk.memory && !(about.sessions && talk.turns.length)) body.memory = talk.memory;
  return body;
}
