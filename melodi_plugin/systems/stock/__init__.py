"""Memory around a decoder layer that is trained already.

Read in this order; each file imports only what stands above it:

  cell    how it reads a window, through the layer's own `__call__`
  params  what memory adds to it, as an NNX module
"""
