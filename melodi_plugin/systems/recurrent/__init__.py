"""Layers that rewrite states at every window: the Block-Recurrent Transformer.

Read in this order; each file imports only what stands above it:

  states  how states read tokens and are rewritten
  cell    how such a layer reads a window
  params  its parameters as an NNX module
"""
