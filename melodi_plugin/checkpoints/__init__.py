"""Checkpoints that become others, and what is read off them; memory in files.

Read in this order; each file imports only what stands above it:

  graft          a stock checkpoint with memory, and back
  gates          gates and offsets over training
  verify         whether checkpoints are whole
  gguf/          a llama GGUF file as a stock checkpoint
  fingerprint    which model a memory belongs to
  memory_format  a memory file as bytes: its header, its digest, what is left out
  memory_file    what a row has read, saved and loaded
"""
