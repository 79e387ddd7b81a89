"""MELODI memory for MaxText.

A long document is read in short windows.  After every window its layers keep a few compressed
tokens: short-term memory, rewritten at every window, in every layer; long-term memory, a queue of
what every window adds, in a middle layer.  `decoder_block: melodi` in a MaxText YAML turns this on;
`transformer_xl`, `memorizing_transformer` and `block_recurrent` are what it is compared with.

Read in this order; each file imports only files above it:
  array_typing  the letters of every shape
  keys, config  the `melodi_*` keys, and the sizes derived from them
  segments      documents inside a segment: boundaries, masks, the one reset rule
  attention, token_mixer, memory   the arithmetic
  cell          the one interface through which every window is read
  branching     the token mixers that close a window
  melodi_cell   the verbs of that interface, whatever block is inside
  paper_layer, paper_cell          the paper's layer in it
  stock_cell                       a layer of somebody else in it
  retrieval, cached_cell           Transformer-XL and the Memorizing Transformer in it
  state_layer, recurrent_cell      the Block-Recurrent Transformer in it
  schedule      the orders in which the grid of cells (layer, window) is walked
  naive, naive_baselines           the same in slow, obvious loops: the truth of the tests
  layers/       parameters as NNX modules
  systems       which cell and which parameters a layer of a system has
  accounting, flops                parameters, memory and matrix products in closed form
  adafactor, learning_rate, optimizer_state   the paper's optimizer and schedule
  -- MaxText is visible only below --
  refusals      MaxText settings that would silently break memory
  decoder       what the classes that MaxText instantiates share; carries the memory variables
  paper_decoder                    a stack of the paper's layers
  stock_block, stock_decoder       MaxText's own layers, and a stack of them with memory
  eval_step     evaluation during training, with a memory of its own
  host/         every MaxText internal that we touch: one table of seams
  registration  register(), unregister()
  data/         documents -> windows -> sticky batch rows; text -> corpora
  scoring       whole documents read by a checkpoint, the loss of every token
  scores, plots, report   what that says: perplexities, tables, pictures
  probes/       recall against distance
  weights, graft, gates            stock checkpoints and those with memory
  import_gguf, gguf_*              a llama GGUF file as a stock checkpoint
  sizes, paper_configs             the paper's tables, and a config for each of their rows
  compare/      several configs trained and evaluated alike, side by side
  train, train_compile, evaluate   launchers
"""

from melodi_plugin.config import MelodiConfig
from melodi_plugin.keys import MelodiKeys
from melodi_plugin.registration import UnsupportedHost, register, unregister

__all__ = ["MelodiConfig", "MelodiKeys", "UnsupportedHost", "register", "unregister"]
