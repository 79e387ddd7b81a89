"""Layers that rewrite states at every window: the Block-Recurrent Transformer.

Read in this order; each file imports only what stands above it:

  states  how states read tokens and are rewritten
  reader  how tokens read states, and the states as a memory
  params  its parameters as an NNX module
"""
