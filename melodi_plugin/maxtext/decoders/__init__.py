"""The decoders that MaxText builds for our systems; they own the memory variables.

Read in this order; each file imports only what stands above it:

  state        memory as state of a model
  cache        rows in the middle of their windows, as state of MaxText's engine
  base         what they share
  paper        a stack of the paper's layers, or of the systems that it is compared with
  stock_block  MaxText's own layers as pure functions with their attention open
  stock        a stack of them with memory
"""
