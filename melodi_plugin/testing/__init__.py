"""Small models, slow checks and stand-ins for tests, ours and yours.  Not in the wheel.

Read in this order; each file imports only what stands above it:

  cases       which cases of a test run by default
  slots       an engine and a tokenizer without a model
  http        a service over them, and requests to it without a network
  states      states without a model
  texts       texts for a scheduler, its turns by hand, and what becomes of texts alone
  tiny        small models, random inputs, comparisons
  variants    every kind of memory that a config can ask for
  segments    MELODI of two layers, and a segment of documents
  products    operations of the matrix products of a traced program
  baselines   small models of the systems that MELODI is compared with
  checks      what must hold for each of them
  stock       a block of a few lines, for the cell around stock blocks
  stock_loops that cell in loops
  remat       two rows that read a segment, every cell rematerialized
  comparison  rows, results and probes as MaxText would have left them
  files/      GGUF files, memory files, records, tokenizers and conversations, small
"""
