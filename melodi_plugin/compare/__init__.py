"""Several configs trained and evaluated alike, side by side: `melodi compare`.

Read in this order; each file imports only what stands above it:

  request    the command line, and what all rows must have in common
  configs    what MaxText makes of a config, found out in a process of its own
  training   one training run as a process, which also says how much memory it took
  metrics    what a training run has logged: losses, tokens per second
  runs       one config with one seed: trained, evaluated, resumed, never run twice
  execution  all runs, one after the other, with a bar; the lock on their folder
  results    the runs of a row put together: means, spread, change against the first row
  pareto     the picture of quality against bytes
  plots      the other pictures
  table      Markdown, CSV and JSON
"""
