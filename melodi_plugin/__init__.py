"""MELODI memory for MaxText.

A long document is read in short windows.  After every window its layers keep a few compressed
tokens: short-term memory, rewritten at every window, in every layer; long-term memory, a queue of
what every window adds, in a middle layer.  `decoder_block: melodi` in a MaxText YAML turns this on.

Read in this order; each file imports only files above it:
  array_typing  the letters of every shape
  config        the `melodi_*` keys, and the sizes derived from them
  segments      documents inside a segment: boundaries, masks, the one reset rule
  attention, token_mixer, memory   the arithmetic
  cell          the one interface through which every window is read
  paper_layer, paper_cell          the paper's layer, and its cell
  schedule      the orders in which the grid of cells (layer, window) is walked
  naive         the same model in slow, obvious loops: the truth that tests compare with
  layers/       parameters as NNX modules
  -- MaxText is visible only below --
  refusals      MaxText settings that would silently break memory
  decoder       the class that MaxText instantiates; carries the memory variables
  eval_step     evaluation during training, with a memory of its own
  host/         every MaxText internal that we touch: one table of seams
  registration  register(), unregister()
  data/         documents -> windows -> sticky batch rows; text -> corpora
  scoring       whole documents read by a checkpoint, the loss of every token
  scores, plots, report   what that says: perplexities, tables, pictures
  probes/       recall against distance
  train, train_compile, evaluate   launchers
"""

from melodi_plugin.config import MelodiConfig, MelodiKeys
from melodi_plugin.registration import UnsupportedHost, register, unregister

__all__ = ["MelodiConfig", "MelodiKeys", "UnsupportedHost", "register", "unregister"]
