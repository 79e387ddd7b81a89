"""Small models, slow checks and stand-ins for tests, ours and yours.  Not in the wheel.

Read in this order; each file imports only what stands above it:

  tiny        small models, random inputs, comparisons
  baselines   small models of the systems that MELODI is compared with
  checks      what must hold for each of them
  stock       a block of a few lines, and its cell in loops
  comparison  rows and results as MaxText would have left them
"""
