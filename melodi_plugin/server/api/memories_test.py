"""Memories over HTTP."""

import asyncio
import os

import pytest

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.service import ServeLimits
from melodi_plugin.testing.http import RoleChat, call, check_error
from melodi_plugin.testing.slots import END, ByteTokenizer, answer

BYTES = {"content-type": "application/octet-stream"}


def create(service, name="book", text="One ring", **more):
  return call(service, "POST", "/v1/memories", json={"name": name, "text": text, **more})


def goes_on(service, name, text):
  """What is written behind a memory."""
  asked = {"prompt": text, "memory": name, "max_tokens": 3, "temperature": 0}
  return call(service, "POST", "/v1/completions", json=asked).json()["choices"][0]["text"]


def files(folder):
  return [name for part in ("states", "incoming") for name in os.listdir(folder / part)]


def test_a_text_is_read_once_and_asked(kept):
  made = create(kept, title="Tolkien")
  assert made.status_code == 201
  told = made.json()
  assert (told["object"], told["name"], told["title"], told["tokens"]) == (
    "memory", "book", "Tolkien", 8,
  )  # fmt: skip
  assert told["bytes"] > 0
  assert call(kept, "GET", "/v1/memories").json() == {"object": "list", "data": [told]}
  assert call(kept, "GET", "/v1/memories/book").json() == told
  assert goes_on(kept, "book", " to") == bytes(answer(b"One ring to", 3)).decode()
  assert 'melodi_tokens_total{kind="prompt"} 1' in call(kept, "GET", "/metrics").text


def test_a_text_may_be_sent_as_it_is(kept):
  path = "/v1/memories?name=book&title=Tee"
  made = call(kept, "POST", path, content="Grüße".encode(), headers=BYTES)
  assert (made.status_code, made.json()["title"], made.json()["tokens"]) == (201, "Tee", 7)
  nameless = call(kept, "POST", "/v1/memories", content=b"x", headers=BYTES)
  check_error(nameless, 400, "name")
  broken = call(kept, "POST", "/v1/memories?name=b", content=b"ab\xff", headers=BYTES)
  assert "byte 2" in check_error(broken, 400, "text")
  plain = {"content-type": "text/plain"}
  check_error(call(kept, "POST", "/v1/memories?name=b", content=b"x", headers=plain), 400)


def test_memories_that_cannot_be_made(kept, tmp_path):
  create(kept)
  check_error(create(kept), 409, "name")
  check_error(create(kept, name="../up"), 400, "name")
  check_error(create(kept, name="new", text=""), 400, "text")
  check_error(create(kept, name="new", text=3), 400, "text")
  kept.limits = ServeLimits(max_prompt_tokens=4)
  check_error(create(kept, name="new", text="12345"), 400, "text")
  kept.limits = ServeLimits()
  with kept.store.claims.claimed("memory", "", "busy"):
    check_error(create(kept, name="busy"), 409, "memory")
  assert len(files(tmp_path)) == 1


def test_a_memory_is_downloaded_deleted_and_uploaded(kept, tmp_path):
  create(kept, title="Tolkien")
  file = call(kept, "GET", "/v1/memories/book/content")
  assert file.headers["content-disposition"] == 'attachment; filename="book.memory"'
  assert file.headers["content-length"] == str(len(file.content))
  gone = call(kept, "DELETE", "/v1/memories/book")
  assert gone.json() == {"object": "memory.deleted", "name": "book", "deleted": True}
  for method, path in (("GET", "/content"), ("DELETE", ""), ("GET", "")):
    check_error(call(kept, method, f"/v1/memories/book{path}"), 404)
  assert not files(tmp_path)
  for _ in range(2):  # the second time in place of the first
    put = call(kept, "PUT", "/v1/memories/again/content", content=file.content)
    assert (put.status_code, put.json()["title"], put.json()["tokens"]) == (200, "Tolkien", 8)
  assert len(files(tmp_path)) == 1
  assert goes_on(kept, "again", " to") == bytes(answer(b"One ring to", 3)).decode()


def test_files_that_are_no_memories_leave_nothing(kept, tmp_path):
  for content in (b"", b"junk", b"x" * 100_000):
    sentence = check_error(call(kept, "PUT", "/v1/memories/b/content", content=content), 400)
    assert str(tmp_path) not in sentence
  check_error(call(kept, "PUT", "/v1/memories/a%20b/content", content=b"x"), 400, "name")
  assert not files(tmp_path)


def test_a_file_may_be_longer_than_a_text(kept):
  kept.limits, kept.row_bytes = ServeLimits(max_body_bytes=100), 0
  check_error(call(kept, "PUT", "/v1/memories/b/content", content=b"x" * 2**20), 400)
  check_error(call(kept, "PUT", "/v1/memories/b/content", content=b"x" * (2**24 + 1)), 413)
  check_error(call(kept, "PUT", "/v1/sessions", content=b"x" * 101), 413)
  check_error(create(kept, text="x" * 101), 413)


def test_an_upload_that_breaks_off_leaves_nothing(kept, tmp_path):
  parts = [
    {"type": "http.request", "body": b"half", "more_body": True},
    {"type": "http.disconnect"},
  ]
  statuses = []

  async def receive():
    return parts.pop(0)

  async def send(message):
    statuses.append(message.get("status"))

  path = "/v1/memories/b/content"
  scope = {"type": "http", "method": "PUT", "path": path, "raw_path": path.encode()}
  scope |= {"headers": [(b"host", b"localhost")], "query_string": b"", "root_path": ""}
  asyncio.run(make_app(kept)(scope, receive, send))
  assert statuses[0] == 499  # which nobody receives
  assert not parts and not files(tmp_path) and kept.store.stats().memories == 0


def test_a_server_that_keeps_nothing_says_so(service):
  check_error(call(service, "GET", "/v1/memories"), 400)
  check_error(create(service), 400)


@pytest.mark.parametrize("by", ["memory", "session"])
def test_a_conversation_that_begins_with_a_memory_begins_as_others_do(kept, by):
  call(kept, "POST", "/v1/memories", json={"name": "book", "text": "A text"})
  call(kept, "POST", "/v1/sessions", json={"name": "fork", "memory": "book"})
  messages = [{"role": "user", "content": "one"}]
  asked = {"messages": messages, "max_tokens": 9, "temperature": 0}
  asked |= {"memory": "book"} if by == "memory" else {"session": "fork"}
  told = call(kept, "POST", "/v1/chat/completions", json=asked).json()["choices"][0]["message"]
  written = answer([*b"A text", *RoleChat()(messages)], 9, end=END)
  assert told["content"] == ByteTokenizer().decode(written)
