"""One process, from its start to its end."""

import os
import signal
import threading
import time

import httpx

from melodi_plugin.server import process
from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.http import tiny_service
from melodi_plugin.testing.slots import load_row, save_row


def run(service, ask, drain_seconds=5.0, load=lambda: None):
  """Serves while `ask(url)` runs in a thread, which has to end it by a signal."""
  listening = process.listen("127.0.0.1", 0)
  url = process.url_of(listening)
  thread = threading.Thread(target=ask, args=(url,))
  thread.start()
  all_ended = process.run(make_app(service), service, load, listening, drain_seconds)
  thread.join()
  return all_ended


def end():
  os.kill(os.getpid(), signal.SIGTERM)


def test_what_has_expired_goes_and_the_folder_is_free_at_the_end(tmp_path, monkeypatch):
  monkeypatch.setattr(process, "_SWEEP_SECONDS", 0.01)
  service = tiny_service(store=Store(str(tmp_path), save_row, load_row))
  swept, sweep = threading.Event(), service.store.sweep

  def note():
    sweep()
    swept.set()

  monkeypatch.setattr(service.store, "sweep", note)

  def ask(_):
    swept.wait(10)
    end()

  assert run(service, ask)
  assert swept.is_set()
  Store(str(tmp_path), save_row, load_row).close()


def test_a_signal_ends_it_while_it_loads_and_says_that_loading_goes_on():
  begun, released = threading.Event(), threading.Event()

  def load():
    begun.set()
    released.wait(10)

  def ask(_):
    begun.wait(10)
    end()

  assert not run(tiny_service(), ask, load=load)
  released.set()


def test_an_answer_whose_state_is_slow_to_keep_is_told_while_the_server_drains(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(process, "_LAST_BYTES", 0.2)
  saving, told = threading.Event(), []

  def slow(*args):
    saving.set()
    time.sleep(1)
    save_row(*args)

  service = tiny_service(store=Store(str(tmp_path), slow, load_row))

  def ask(url):
    body = {"prompt": "a", "max_tokens": 2, "session": "mine"}
    told.append(httpx.post(f"{url}/v1/completions", json=body, timeout=20))

  def ask_and_end(url):
    asking = threading.Thread(target=ask, args=(url,))
    asking.start()
    saving.wait(10)
    end()
    asking.join()

  run(service, ask_and_end)
  assert told[0].status_code == 200
  again = Store(str(tmp_path), save_row, load_row)
  assert [own.name for own in again.all_named("session", "")] == ["mine"]
  again.close()
