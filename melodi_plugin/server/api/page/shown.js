// How things are shown: texts of users and of the model as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, text, more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

export function show(kind, text) {
  const log = $("log");
  const shown = element("p", text, { className: kind });
  $("empty").hidden = true;
  log.append(shown);
  log.scrollTop = log.scrollHeight;
  return shown;
}

export function write(shown, text) {
  const log = $("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  shown.textContent += text;
  if (follows) log.scrollTop = log.scrollHeight;
}

export function showError(error) {
  $("error").textContent = error?.message ?? "";
  $("error").hidden = !error;
}

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), 3);
  const digits = power ? 1 : 0;
  return `${(count / 1000 ** power).toFixed(digits)} ${units[power]}`;
}

export const number = (count) => count.toLocaleString("en");
