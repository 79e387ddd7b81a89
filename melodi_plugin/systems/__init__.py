"""The systems: how a layer of each reads, what it remembers, and its parameters.

Read in this order; each file imports only what stands above it:

  params      parameters of a token mixer, and what all modules of parameters are made with
  paper/      the paper's layer
  stock/      a layer of somebody else with memory around it
  cached/     Transformer-XL and the Memorizing Transformer
  recurrent/  the Block-Recurrent Transformer
  table       which parts a layer of a system is made of
  fit         whether the parts of a user's system fit together
"""
