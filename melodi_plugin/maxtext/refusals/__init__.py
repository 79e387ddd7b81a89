"""MaxText settings that would silently break memory: each is refused with one sentence.

A setting leaves these lists when a test shows that it works.  Read in this order; each file imports
only what stands above it:

  refusal      when a config is refused, and with which sentence
  remat        the names of MaxText's remat policies
  loader       of the loader that gives documents to rows
  every_block  of every layer with memory
  blocks       of the paper's layers, of those around a stock block, and of serving
"""
