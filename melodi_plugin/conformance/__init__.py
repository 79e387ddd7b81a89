"""What must hold for every system, ours and yours: see docs/own_memory.md.

Read in this order; each file imports only what stands above it:

  naive     a segment in Python loops, from a function that reads one window of one row
  stacks    small stacks with random parameters, and rows of documents for them
  segments  schedules, packed rows, resets, segments cut anywhere
  verbs     token by token, in chunks, rows out of step: the same as whole windows
  suite     the checks above in one table
  training  stopped and resumed, and spread over devices, through the real trainer
"""
