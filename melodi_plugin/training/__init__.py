"""How the paper trains: its optimizer and schedule; and what a run shows of its progress.

Read in this order; each file imports only what stands above it:

  parameter_paths  a parameter's path as text
  adafactor        optax's Adafactor, for every layer of a scanned stack
  optimizer_state  which parameters are stacks, and the logical axes of their moments
  muon             which parameters Muon orthogonalizes, and by which axes
  learning_rate    warm-up and cosine on one axis of steps
  distillation     how far a student is from a teacher
  gate_moves       whether gates have moved
  divergence       which checkpoint is kept where the loss stops being finite
  progress         step, loss, tokens per second, time left
"""
