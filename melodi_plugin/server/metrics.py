"""What the server counts, in the form that Prometheus reads."""

from collections.abc import Callable
from importlib import metadata

import jax
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from melodi_plugin.server import slots
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.server.states.store import Store
from melodi_plugin.serving.snapshots import Snapshots

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_COMPILE = "/jax/core/compile/backend_compile_duration"


class Metrics(slots.Observer):
  """The counters of one server; for all threads."""

  def __init__(self):
    self._registry = CollectorRegistry()
    self._requests = self._counter("requests", "Requests answered.", "route", "status")
    self._tokens = self._counter("tokens", "Tokens: prompt, cached of these, generated.", "kind")
    self._first_token = self._histogram(
      "time_to_first_token_seconds", "From a request to its first token."
    )
    self._between_tokens = self._histogram(
      "time_per_token_seconds", "Between two tokens of one text."
    )
    self._waited = self._histogram("queue_seconds", "That a text waited for a slot.")
    self._calls = self._histogram("call_seconds", "Of the device or the disk.", "call")
    self._windows_closed = self._counter("windows_closed", "Windows closed, of all texts.")
    self._snapshot_hits = self._counter("snapshot_hits", "Prompts that had a beginning in memory.")
    self._compiles = self._counter("compiles", "Programs compiled; constant after the start.")
    self._gauge("build_info", "Always 1.", "version").labels(metadata.version("melodi-plugin")).set(
      1
    )
    for kind in ("prompt", "cached", "generated"):
      self._tokens.labels(kind)

  def text(self) -> bytes:
    """All of them, as Prometheus reads them."""
    return generate_latest(self._registry)

  def answered(self, route: str, status: int) -> None:
    """A request; `route` has no names in it that clients choose."""
    self._requests.labels(route, str(status)).inc()

  def count_compiles(self) -> None:
    """From now on, whoever compiles in this process; call it once."""

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
      if event == _COMPILE:
        self._compiles.inc()

    jax.monitoring.register_event_duration_secs_listener(listen)

  def watch(self, scheduler: Scheduler, snapshots: Snapshots, store: Store | None) -> None:
    """What these know themselves is asked when somebody reads the metrics; call it once."""
    states = self._gauge("slots", "Slots, by what they do.", "state")
    states.labels("free").set_function(lambda: scheduler.status().free)
    states.labels("reading").set_function(lambda: scheduler.status().reading)
    states.labels("decoding").set_function(lambda: scheduler.status().writing)
    self._asked("queue_requests", "Texts that wait.", lambda: scheduler.status().queued_texts)
    self._asked("snapshot_bytes", "Bytes of snapshots of prompts.", lambda: snapshots.bytes)
    if store is not None:
      self._asked("state_bytes", "Bytes of states on the disk.", lambda: store.stats().bytes)
      self._asked("sessions", "Sessions on the disk.", lambda: store.stats().sessions)

  # -- See `slots.Observer` ------------------------------------------------------------------------

  def tokens(self, kind: str, count: int) -> None:  # noqa: D102
    self._tokens.labels(kind).inc(count)
    if kind == "cached" and count:
      self._snapshot_hits.inc()

  def call(self, name: str, seconds: float) -> None:  # noqa: D102
    self._calls.labels(name).observe(seconds)

  def waited(self, seconds: float) -> None:  # noqa: D102
    self._waited.observe(seconds)

  def first_token(self, seconds: float) -> None:  # noqa: D102
    self._first_token.observe(seconds)

  def between_tokens(self, seconds: float) -> None:  # noqa: D102
    self._between_tokens.observe(seconds)

  def windows_closed(self, count: int) -> None:  # noqa: D102
    self._windows_closed.inc(count)

  # -- One of each kind ----------------------------------------------------------------------------

  def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"melodi_{name}", help_text, labels, registry=self._registry)

  def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(f"melodi_{name}", help_text, labels, registry=self._registry)

  def _asked(self, name: str, help_text: str, function: Callable[[], float]) -> None:
    self._gauge(name, help_text).set_function(function)

  def _histogram(self, name: str, help_text: str, *labels: str) -> Histogram:
    return Histogram(f"melodi_{name}", help_text, labels, registry=self._registry, buckets=_SECONDS)
