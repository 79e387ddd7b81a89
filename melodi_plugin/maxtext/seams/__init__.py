"""Every MaxText internal that we touch, one seam each: probe, apply, undo.

MaxText, and what of ours stands on it, is imported inside functions: so importing the table loads
neither MaxText nor JAX, and where MaxText lacks what a seam needs, the probe can say so.

Read in this order; each file imports only what stands above it:

  seam             what a seam is, and the few tools that every seam needs
  imports          modules of users, which register systems
  config           the names of our systems, and our keys
  model            our decoder, and its evaluation during training
  attention        what MaxText's own layers attend to, and what they keep apart
  data             our batches in MaxText's loop
  saved/           what a checkpoint holds, and how a run goes on from it
  weights          stock weights in a model with memory
  optimizer        the paper's optimizer and learning rate, and those of what memory adds
  loss             microbatches, random compression, distillation from full attention
  flops            the products behind TFLOP/s
  logs             what is logged of a step
  engine           what MaxText's engine loads, and what it returns of a step
  table            all of them
"""
