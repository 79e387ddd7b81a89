"""The only room that sees MaxText.

Read in this order; each file imports only what stands above it:

  refusals/      settings of MaxText that would silently break memory
  decoders/      what MaxText builds for our systems
  pipeline       sticky rows of documents for a MaxText config
  eval_step      evaluation during training, with a memory of its own
  weights        parameters of stock models and those of memory, told apart; checkpoints of both
  loading        the model of a config, and the parameters of checkpoints in it
  steps          one step on this machine: it trains on a batch, or reads one
  prepared       a model's parameters, made ready once to read many small pieces
  stock_decoder  one row of MaxText's own decoder, with its own cache
  sizes          what a MaxText config costs, measured without building the model
  seams/         every MaxText internal that we touch: one table
  light          a config's keys, read without importing MaxText
  registration   register(), unregister()
  run_log        what MaxText says, in a file of the run
  machine        what a config leaves open and this machine answers
  configs        configs read, errors in one sentence
  session        one run of the trainer: progress, Ctrl-C
  launch         trainings and compiles started
"""
