"""`melodi VERB …`: one command.

Read in this order; each file imports only what stands above it:

  parser         how a command line is read
  arguments/     what every verb takes
  commands       every verb: what it is for, and one example
  train          MaxText's trainer, with memory; compiled ahead of time
  evaluate       whole documents, memory carried; recall probes
  decode         text after a prompt, or a talk; documents into memory files
  serve          the same over HTTP, for many at once
  report         evaluations, or probes, side by side
  checkpoints    memory for a stock checkpoint, and back; its gates; a GGUF file as one
  memory         what is in memory files
  data           corpora
  sizes          what models cost; configs of the paper's experiments
  compare        several configs trained and evaluated alike
  bench          how fast it trains, and how fast it writes
  main           finds the verb, and runs it
"""
