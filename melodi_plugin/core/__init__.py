"""The arithmetic and the one interface through which every window is read.  Knows no system.

Read in this order; each file imports only what stands above it:

  array_typing  the letters of every shape
  segments      documents inside a segment: boundaries, masks, the one reset rule
  attention     unit-norm attention, T5 bias, the null slot, the gate
  memory        short-term and long-term memory as explicit state
  token_mixer   a linear map along the token axis
  branching     the mixers that close a window
  cell          the interface: context, close, write
  window_cell   its verbs, whatever block is inside
  schedules/    the orders in which the grid of cells (layer, window) is walked
"""
