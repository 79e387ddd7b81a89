"""The same in slow, obvious loops: the truth that tests and users compare with.

Read in this order; each file imports only what stands above it:

  melodi     MELODI, over rows, windows and layers
  documents  what a document remembers, written down as lists
  baselines  Transformer-XL, Memorizing and Block-Recurrent
"""
