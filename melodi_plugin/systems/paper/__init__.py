"""The layer of the MELODI paper.

Read in this order; each file imports only what stands above it:

  layer   projections, attention and feed-forward network of one layer
  reader  how it reads tokens
  params  its parameters as an NNX module
"""
