"""The decoders that MaxText builds for our systems, which own the memory variables.

Read in this order; each file imports only what stands above it:

  stock_refusals  what a decoder without memory cannot be asked for
  apart           what MaxText's own layers do otherwise in rows of documents
  teacher         the same weights with full attention, to learn from
  drawn           how much of their queues the rows of a training step see
  microbatch      the rows of a microbatch
  state           memory as state of a model
  cache           rows in the middle of their windows, as state of MaxText's engine
  local           every device reads its own rows, and gathers a layer's weights once
  base            what our decoders share
  paper           a stack of the paper's layers, or of the systems that it is compared with
  stock_block     MaxText's own layers as pure functions with their attention open
  stock           a stack of them with memory
"""
