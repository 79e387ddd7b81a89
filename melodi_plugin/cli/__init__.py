"""`melodi VERB …`: one file per verb.

Read in this order; each file imports only what stands above it:

  train          MaxText's trainer, with memory
  compile        ahead of time, for an accelerator that is not here
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
  main           the table of verbs
"""
