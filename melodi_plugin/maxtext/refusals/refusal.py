"""When a config is refused, and the sentence that says so."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from melodi_plugin.config.systems import system_of


class Refusal(NamedTuple):
  """When a config is refused, and the sentence that says what is wrong and what to do."""

  when: Callable[[Any], bool]
  sentence: str


def is_set(key: str) -> Callable[[Any], bool]:
  """Whether a switch is on."""
  return lambda config: bool(getattr(config, key, False))


def refuse(config: Any, refusals: Iterable[Refusal]) -> None:
  """Raises ValueError with the sentence of the first of `refusals` that holds."""
  for refusal in refusals:
    if refusal.when(config):
      sentence = refusal.sentence.format(c=config)
      raise ValueError(f"decoder_block: {system_of(config)} cannot run: {sentence}")
