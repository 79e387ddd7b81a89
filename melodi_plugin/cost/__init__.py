"""What a model costs, in closed form: parameters, memory, matrix products; the paper's tables.

Read in this order; each file imports only what stands above it:

  accounting     parameters, memory and decode state
  flops          matrix products of a training step
  stock          MaxText's ordinary blocks: their parameters and products
  sizes          the numbers of one model, and the table of several
  paper_configs  a config for every row of the paper's tables
"""
