"""`melodi VERB …`: one command.

Read in this order; each file imports only what stands above it:

  parser         how a command line is read
  commands       every verb: what it takes, and one example
  train          MaxText's trainer, with memory; compiled ahead of time
  evaluate       whole documents, memory carried; recall probes
  report         evaluations side by side
  probes         probes side by side
  graft          memory for a stock checkpoint, and back
  gates          do the gates move?
  import_gguf    a llama GGUF file as a stock checkpoint
  data           corpora
  sizes          what models cost
  compare        several configs trained and evaluated alike
  paper_configs  configs of the paper's experiments
  bench          how fast it is
  main           finds the verb, and runs it
"""
