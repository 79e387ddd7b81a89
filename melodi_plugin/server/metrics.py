"""What the server counts, in the form that Prometheus reads."""

from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
SLOT_STATES = ("free", "reading", "decoding")
TOKEN_KINDS = ("prompt", "cached", "generated")


class Metrics:
  """The counters of one server; they may be set in any thread.

  Attributes:
    requests: answered, by route and status.
    tokens: by kind: of prompts, of these those that were not read again, and written.
    first_token_seconds: from a request to its first token.
    token_seconds: between two tokens of one text.
    queue_seconds: that a text waited for a slot.
    queue_requests: texts that wait.
    slots: by what they do.
    call_seconds: of the device or the disk, by call.
    windows_closed: of all texts.
    state_bytes: on the disk.
    sessions: on the disk.
    snapshot_bytes: of what was read before.
    snapshot_hits: prompts that began with it.
    compiles: constant after the start.
  """

  def __init__(self):
    self.registry = CollectorRegistry()
    self.requests = self._counter("requests", "Requests answered.", "route", "status")
    self.tokens = self._counter("tokens", "Tokens: prompt, cached of these, generated.", "kind")
    self.first_token_seconds = self._histogram(
      "time_to_first_token_seconds", "From a request to its first token."
    )
    self.token_seconds = self._histogram(
      "time_per_token_seconds", "Between two tokens of one text."
    )
    self.queue_seconds = self._histogram("queue_seconds", "That a text waited for a slot.")
    self.queue_requests = self._gauge("queue_requests", "Texts that wait for a slot.")
    self.slots = self._gauge("slots", "Slots, by what they do.", "state")
    self.call_seconds = self._histogram("call_seconds", "Of the device or the disk.", "call")
    self.windows_closed = self._counter("windows_closed", "Windows closed, of all texts.")
    self.state_bytes = self._gauge("state_bytes", "Bytes of states on the disk.")
    self.sessions = self._gauge("sessions", "Sessions on the disk.")
    self.snapshot_bytes = self._gauge("snapshot_bytes", "Bytes of snapshots of prompts.")
    self.snapshot_hits = self._counter("snapshot_hits", "Prompts that began with a snapshot.")
    self.compiles = self._counter("compiles", "Programs compiled; constant after the start.")
    build = self._gauge("build_info", "Always 1; says which version runs.", "version")
    build.labels(metadata.version("melodi-plugin")).set(1)
    for kind in TOKEN_KINDS:
      self.tokens.labels(kind)
    for state in SLOT_STATES:
      self.slots.labels(state)

  def text(self) -> bytes:
    """All of them, as Prometheus reads them."""
    return generate_latest(self.registry)

  def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"melodi_{name}", help_text, labels, registry=self.registry)

  def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(f"melodi_{name}", help_text, labels, registry=self.registry)

  def _histogram(self, name: str, help_text: str, *labels: str) -> Histogram:
    return Histogram(f"melodi_{name}", help_text, labels, registry=self.registry, buckets=_SECONDS)
