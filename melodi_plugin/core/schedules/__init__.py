"""The orders in which the grid of cells (layer, window) is walked.

Read in this order; each file imports only what stands above it:

  segment  one segment of every row through the whole stack
"""
