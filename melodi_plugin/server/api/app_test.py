"""What stands before all routes, and the one form of errors."""

import json
from typing import Annotated

import pytest
from fastapi import Depends, Request

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.api.bodies import Body, read_as
from melodi_plugin.server.api.guards import Owner
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Access, ServeLimits
from melodi_plugin.testing.http import call, check_error


def test_which_model_is_served(service):
  (model,) = call(service, "GET", "/v1/models").json()["data"]
  assert (model["id"], model["max_model_len"]) == ("tiny", service.limits.max_prompt_tokens)
  assert call(service, "GET", "/v1/models/tiny").json() == model
  other = call(service, "GET", "/v1/models/o/ther")
  check_error(other, 404, "model")
  assert other.json()["error"]["code"] == "model_not_found"


def test_routes_and_methods_that_are_not_there(service):
  assert "/v1/nothing" in check_error(call(service, "GET", "/v1/nothing"), 404)
  check_error(call(service, "GET", "/docs"), 404)
  check_error(call(service, "GET", "/openapi.json"), 404)
  check_error(call(service, "GET", "/v1/models/"), 404, "model")
  wrong = call(service, "DELETE", "/v1/models")
  check_error(wrong, 405)
  assert wrong.headers["allow"] == "GET"


def test_only_health_and_metrics_answer_before_it_is_ready_and_while_it_stops(service):
  for ready, draining in ((False, False), (True, True)):
    service.ready, service.draining = ready, draining
    for path in ("/v1/models", "/nothing", "/health"):
      closed = call(service, "GET", path)
      check_error(closed, 503)
      assert int(closed.headers["retry-after"]) > 0
    assert call(service, "GET", "/metrics").status_code == 200
  service.draining = False
  assert call(service, "GET", "/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
  ("host", "right"),
  [
    ("localhost", True),
    ("LOCALHOST:8000", True),
    ("127.0.0.1:1", True),
    ("[::1]:8000", True),
    ("model.example", True),
    ("example", False),
    ("127.0.0.1.evil.example", False),
    ("", False),
  ],
)
def test_pages_of_other_names_cannot_ask(service, host, right):
  service.access = Access(hosts=["Model.example"])
  answer = call(service, "GET", "/v1/models", headers={"host": host})
  if right:
    assert answer.status_code == 200
  else:
    check_error(answer, 400)


def test_keys(service):
  service.access = Access(keys=["first", "two-ü"])
  assert "first" not in repr(service)
  for given in (None, "Bearer three", "Bearer ", "first", "Basic first", "Bearer first two"):
    headers = {"authorization": given} if given else {}
    refused = call(service, "GET", "/v1/models", headers=headers)
    check_error(refused, 401)
    assert refused.headers["www-authenticate"] == "Bearer"
  assert call(service, "GET", "/v1/models", headers={"authorization": "Bearer first"}).is_success
  assert call(service, "GET", "/v1/models", headers={"authorization": "bearer first"}).is_success
  assert call(service, "GET", "/health").is_success
  check_error(call(service, "GET", "/metrics"), 401)


def test_an_owner_is_a_digest_of_the_key(service):
  service.access = Access(keys=["one", "two"])
  app, owners = make_app(service), []

  @app.get("/owner")
  async def owner(owner: Owner):
    owners.append(owner)

  for key in ("one", "two", "one"):
    headers = {"authorization": f"Bearer {key}"}
    assert call(service, "GET", "/owner", app=app, headers=headers).is_success
  assert owners[0] == owners[2] != owners[1]
  assert len(owners[0]) == 32


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_long(service, told):
  service.limits = ServeLimits(max_body_bytes=100)

  async def parts():
    for _ in range(10):
      yield b"x" * 50

  content = b"x" * 500 if told else parts()
  headers = {"content-type": "application/json"}
  app = make_app(service)

  @app.post("/read")
  async def read(request: Request):
    await request.body()

  check_error(call(service, "POST", "/read", app=app, content=content, headers=headers), 413)


def test_an_error_that_nobody_foresaw_tells_nothing_of_itself(service, caplog):
  app = make_app(service)

  @app.get("/fails")
  async def fails():
    raise RuntimeError("secret")

  @app.get("/full")
  async def full():
    raise Refused(429, "Full.", retry_after=7, code="full")

  answer = call(service, "GET", "/fails", app=app)
  check_error(answer, 500)
  assert "secret" not in answer.text
  assert "secret" in caplog.text
  answer = call(service, "GET", "/full", app=app)
  check_error(answer, 429)
  assert answer.headers["retry-after"] == "7"


class Asked(Body):
  number: int = 0
  either: int | str = 0


@pytest.mark.parametrize(
  ("content", "param"),
  [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"\xff", None),
    (b'{"number": "x"}', "number"),
    (b'{"number": 1.5}', "number"),
    (b'{"either": []}', "either"),
    (b'{"number": NaN}', "number"),
    (b'{"a": ' + b"[" * 5000, None),
    (json.dumps({"number": "x" * 2**20}).encode(), "number"),
  ],
)
def test_bodies_that_are_wrong(service, content, param):
  app = make_app(service)

  @app.post("/read")
  async def read(body: Annotated[Asked, Depends(read_as(Asked))]):
    return body.number

  headers = {"content-type": "application/json"}
  sentence = check_error(
    call(service, "POST", "/read", app=app, content=content, headers=headers), 400, param
  )
  assert len(sentence) < 200
  plain = {"content-type": "text/plain"}
  check_error(call(service, "POST", "/read", app=app, content=b"{}", headers=plain), 400)


def test_unknown_fields_are_told(service):
  app = make_app(service)

  @app.post("/read")
  async def read(body: Annotated[Asked, Depends(read_as(Asked))]):
    return body.number

  told = call(service, "POST", "/read", app=app, json={"number": 3, "more": 1, "a\nb, ü": 2})
  assert told.json() == 3
  assert told.headers["x-melodi-ignored"] == "more, a%0Ab%2C%20%C3%BC"
  known = call(service, "POST", "/read", app=app, json={"number": 3})
  assert "x-melodi-ignored" not in known.headers


def test_requests_have_names_and_are_counted(service):
  own = call(service, "GET", "/v1/models/tiny", headers={"x-request-id": "mine-1"})
  assert own.headers["x-request-id"] == "mine-1"
  made = call(service, "GET", "/v1/nothing", headers={"x-request-id": "a b\n"})
  assert len(made.headers["x-request-id"]) == 32
  counted = call(service, "GET", "/metrics").text
  for route, status in (("/v1/models/{name:path}", 200), ("none", 404)):
    assert f'melodi_requests_total{{route="{route}",status="{status}"}} 1.0' in counted
