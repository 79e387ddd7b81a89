"""The arithmetic and the one interface through which every window is read.  Knows no system.

Read in this order; each file imports only what stands above it:

  array_typing  the letters of every shape
  segments      documents inside a segment: boundaries, masks, the one reset rule
  digests       digests of arrays
  attention     unit-norm attention, T5 bias, the null slot, the gate
  flash         attention to many slots by JAX's kernel for TPUs
  many_slots    attention to many slots, without their logits in memory
  memory        what is stored between segments, and the queue
  token_mixer   a linear map along the token axis
  cell          the three parts of a cell, and what passes between them
  memories/     short-term and long-term memories
  window_cell   the cell: its verbs, and the same composed over a segment
  stack         cells on top of each other, and the memory of all
  schedules/    the orders in which the grid of cells (layer, window) is walked
  decoding      the verbs of a whole stack
"""
