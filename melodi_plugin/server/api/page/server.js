// The server's routes, as its own page calls them.

const KEY = "melodi.key"; // of the session's storage: gone when the tab is closed

// The key that is sent from now on.
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

// The answer of a route; throws an error with the server's sentence, and its status.
export async function call(path, { headers = {}, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { headers, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer; see whether it is running, and try again.");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    dispatchEvent(new Event("key-wanted"));
  }
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answers with the status ${response.status}.`;
  return Object.assign(new Error(message), { status: response.status });
}

// What a stream of server-sent events says, until it is done; throws what went wrong.
export async function* events(response) {
  let held = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const parts = (held + read.value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue; // a comment that keeps the connection alive
      const data = part.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error("The connection broke off before the answer was complete; send it again.");
}
