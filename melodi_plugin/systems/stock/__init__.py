"""Memory around a decoder layer that is trained already.

Read in this order; each file imports only what stands above it:

  reader   how it reads tokens, through the layer's own `__call__`
  params   what memory adds to it, as an NNX module
  adapter  the same of a whole model, in a file
"""
