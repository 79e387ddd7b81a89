"""Checkpoints that become others, and what is read off them.

Read in this order; each file imports only what stands above it:

  graft  a stock checkpoint with memory, and back
  gates  gates and offsets over training
  gguf/  a llama GGUF file as a stock checkpoint
"""
