"""Sessions over HTTP."""

import pytest

from melodi_plugin.testing.http import call
from melodi_plugin.testing.slots import FakeEngine


def add(service, **names):
  return service.store.add("", "response", FakeEngine().extract(0), (1,), tokens=4, **names)


def names(service):
  answer = call(service, "GET", "/v1/sessions").json()
  assert answer["object"] == "list"
  return [(own["name"], own["tokens"]) for own in answer["data"]]


def test_a_session_is_forked_told_and_deleted(kept):
  id = add(kept, session=("chat", None), memory="book", title="Tea")
  for name, source in (
    ("a", {"from": "chat"}),
    ("b", {"memory": "book"}),
    ("c", {"previous_response_id": id}),
  ):
    made = call(kept, "POST", "/v1/sessions", json={"name": name} | source)
    assert made.status_code == 201
    assert (made.json()["name"], made.json()["title"], made.json()["tokens"]) == (name, "Tea", 4)
    assert call(kept, "GET", f"/v1/sessions/{name}").json() == made.json()
    assert kept.store.head("session", "", name) == id
  assert names(kept) == [("a", 4), ("b", 4), ("c", 4), ("chat", 4)]
  gone = call(kept, "DELETE", "/v1/sessions/chat")
  assert gone.json() == {"object": "session.deleted", "name": "chat", "deleted": True}
  assert call(kept, "DELETE", "/v1/sessions/chat").status_code == 404
  assert names(kept) == [("a", 4), ("b", 4), ("c", 4)]


def test_a_session_moves_to_another_server_as_a_file(kept):
  add(kept, session=("chat", None))
  file = call(kept, "GET", "/v1/sessions/chat/content")
  assert file.headers["content-disposition"] == 'attachment; filename="chat.memory"'
  bytes_ = {"content-type": "application/octet-stream"}
  put = call(kept, "PUT", "/v1/memories/chat/content", content=file.content, headers=bytes_)
  assert put.status_code == 200, put.text
  made = call(kept, "POST", "/v1/sessions", json={"name": "there", "memory": "chat"})
  assert made.status_code == 201, made.text
  again = call(kept, "GET", "/v1/sessions/there/content")
  assert again.content == file.content
  assert call(kept, "GET", "/v1/sessions/none/content").status_code == 404


@pytest.mark.parametrize(
  ("body", "status", "param"),
  [
    ({"name": "a"}, 400, "from"),
    ({"name": "a", "from": "chat", "memory": "book"}, 400, "from"),
    ({"from": "chat"}, 400, "name"),
    ({"name": "a/b", "from": "chat"}, 400, "session"),
    ({"name": "a", "from": "../chat"}, 400, "session"),
    ({"name": "chat", "from": "chat"}, 409, "session"),
    ({"name": "a", "from": "none"}, 404, None),
    ({"name": "a", "memory": "none"}, 404, None),
    ({"name": "a", "previous_response_id": "resp_1"}, 404, None),
    ({"name": 1, "from": "chat"}, 400, "name"),
  ],
)
def test_sessions_that_cannot_begin(kept, body, status, param):
  add(kept, session=("chat", None))
  answer = call(kept, "POST", "/v1/sessions", json=body)
  assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
  assert names(kept) == [("chat", 4)]


def test_paths_that_are_no_names(kept):
  for path in ("/v1/sessions/a%20b", "/v1/sessions/..%5c", "/v1/sessions/" + "x" * 65):
    assert call(kept, "DELETE", path).status_code == 400
  assert call(kept, "DELETE", "/v1/sessions/a%2Fb").status_code == 404


def test_a_server_that_keeps_nothing_says_so(service):
  answer = call(service, "GET", "/v1/sessions")
  assert answer.status_code == 400 and "melodi_serve_folder" in answer.json()["error"]["message"]
