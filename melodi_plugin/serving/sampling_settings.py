"""What a request may ask of the next token, checked before it reaches a device."""

import reprlib
import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from melodi_plugin.config.settings import as_written

MAX_BIASES = 300  # tokens that one request may bias


class SamplingSettings(BaseModel):
  """How one row draws its tokens; ValueError with one sentence for a value out of bounds.

  In this order: logit_bias, penalties, temperature, top_k, top_p, min_p.
  """

  model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

  temperature: float = Field(
    1.0, ge=0, description="Logits are divided by it; 0 takes the most probable token."
  )
  top_k: int = Field(
    0, ge=0, lt=2**31, description="Draw among so many most probable tokens; 0 turns it off."
  )
  top_p: float = Field(
    1.0,
    ge=0,
    le=1,
    description="Draw among the fewest most probable tokens that have this probability together; "
    "1 turns it off.",
  )
  min_p: float = Field(
    0.0,
    ge=0,
    le=1,
    description="Draw among tokens at least this share as probable as the most probable one; 0 "
    "turns it off.",
  )
  presence_penalty: float = Field(
    0.0, ge=-2, le=2, description="Subtracted from the logit of every token generated so far."
  )
  frequency_penalty: float = Field(
    0.0, ge=-2, le=2, description="Subtracted as often as the token was generated so far."
  )
  logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
    {}, max_length=MAX_BIASES, description="Added to the logits of these token ids."
  )
  seed: int = Field(
    default_factory=lambda: secrets.randbits(32),
    ge=-(2**63),
    lt=2**63,
    description="Same seed, same text; its lowest 32 bits count.  Random if left out.",
  )
  temperature_last: bool = Field(
    False,
    description="top_p and min_p measure the probabilities at temperature 1, as MaxText does.",
  )

  def __init__(self, **values: Any):
    try:
      super().__init__(**values)
    except ValidationError as error:
      raise ValueError(_sentence(error)) from None

  @classmethod
  def from_maxtext(cls, config: Any, **more: Any) -> "SamplingSettings":
    """What MaxText's keys `decode_sampling_*` say, in MaxText's order; `more` adds to that.

    A key counts only in the strategies that read it, as in MaxText.
    """
    strategy = as_written(config.decode_sampling_strategy)
    if strategy == "greedy":
      return cls(**{"temperature": 0.0, **more})
    values = {"temperature": config.decode_sampling_temperature, "temperature_last": True}
    if strategy in ("topk", "composite"):
      values["top_k"] = config.decode_sampling_top_k
      if values["top_k"] <= 0:
        raise ValueError(
          f"decode_sampling_strategy={strategy} draws among decode_sampling_top_k tokens, which "
          f"is {values['top_k']}; set it to 1 or more."
        )
    if strategy in ("nucleus", "composite"):
      values["top_p"] = config.decode_sampling_nucleus_p
      if not 0 < values["top_p"] <= 1:
        raise ValueError(
          f"decode_sampling_strategy={strategy} draws among the tokens that have the probability "
          f"decode_sampling_nucleus_p together, which is {values['top_p']}; set it above 0 and at "
          "most to 1."
        )
    return cls(**{**values, **more})


def _sentence(error: ValidationError) -> str:
  """The first thing that is wrong: which setting, its value, and what it should be."""
  first = error.errors(include_url=False)[0]
  name = ".".join(str(part) for part in first["loc"] if part != "[key]")
  message = first["msg"].replace("Input should", "it should")
  return f"{name}={reprlib.repr(first['input'])} is refused: {message[0].lower()}{message[1:]}."
