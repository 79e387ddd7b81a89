"""What a model costs, in closed form: parameters, memory, matrix products; the paper's tables.

Read in this order; each file imports only what stands above it:

  accounting     parameters, memory and decode state
  flops          matrix products of a training step
  stock          MaxText's own blocks: parameters, products, and what a row keeps
  printed        what the paper prints: memory, model size, perplexities
  sizes          the numbers of one model, and the table of several
  paper_rows     what every row of the paper's tables changes; which row a config is
  paper_configs  a config for every row, and their table
"""
