"""What is measured, with an engine that only counts; the real one is run by integration_tests."""

from types import SimpleNamespace

import numpy as np

from melodi_plugin.bench import decode, figures
from melodi_plugin.serving.engine import Engine

W = 8


class Counting(Engine):
  """An engine of two slots without a model."""

  row_bytes = 100

  def __init__(self):
    self.window = W
    self.programs = SimpleNamespace(vocabulary=5)
    self.reset()
    self.phases, self.written = [], 0

  def reset(self):
    self.slots = [SimpleNamespace(tokens=0, count=0) for _ in range(2)]

  def read_all(self, texts, on_tokens=lambda count: None):
    for slot, text in texts.items():
      own = self.slots[slot]
      own.tokens += len(text)
      own.count = own.tokens - (own.tokens - 1) // W * W if own.tokens else 0
      on_tokens(len(text))

  def copy(self, slot, to):
    self.slots[to] = SimpleNamespace(**vars(self.slots[slot]))

  def generate(self, pending):
    self.written += 1
    self.phases.append((self.slots[1].tokens - self.slots[0].tokens) % W)
    self.read_all({slot: np.zeros(1, np.int32) for slot in pending})
    return dict.fromkeys(pending, SimpleNamespace(token=1))


def test_two_windows_are_written_out_of_phase_after_each_number_of_tokens():
  engine, done = Counting(), []
  found = decode.with_memory(engine, [16, 80], decode.Compiles(), done.append)
  assert [point.tokens for point in found.points] == [16, 80]
  assert engine.written == 2 * (2 * W + 1) and set(engine.phases) == {W // 2}
  assert sum(done) == 80 + 2 * W - 1  # one token more warms up, and is not told
  assert found.close is not None
  parts = decode.read_long(engine, 103, 10, decode.Compiles(), done.append)
  assert [part.tokens for part in parts][:4] == [11, 22, 33, 43] and parts[-1].tokens == 103
  assert parts[-1].peak_memory >= parts[0].peak_memory > 1e6
  curves = {figures.MEMORY: found.points, figures.STOCK: found.points}
  assert figures.picture(curves).startswith(b"\x89PNG")
  assert figures.points_table(curves).markdown().count("100 B") == 4
  assert "| 103 " in figures.stretches_table(parts).markdown()
