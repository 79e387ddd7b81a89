"""The orders in which the grid of cells (layer, window) is walked.  All give the same numbers.

Read in this order; each file imports only what stands above it:

  walk      what every cell of a segment gets besides its streams
  layers    layer outside, windows inside
  windows   window outside, layers inside
  diagonal  all cells with layer + window = t at once
  segment   one segment of every row through the whole stack, in one of these orders
"""
