"""What a user asks for: the keys, and the sizes of a stack with memory.  Free of JAX and MaxText.

Read in this order; each file imports only what stands above it:

  serve_keys       those of `melodi serve`
  memory_keys      those that say what a model with memory is, and how it learns
  keys             all `melodi_*` keys, as MaxText writes its own
  settings         what a user has written for a setting
  systems          the systems, by their names: values of `decoder_block`
  parameter_names  where parameters of memory lie, by their paths
  layers           what one layer keeps and how it reads it; runs of equal layers
  model            `MelodiConfig`: the sizes of a stack, and what every layer keeps
"""
