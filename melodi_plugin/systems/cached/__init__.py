"""Layers that remember tokens verbatim: Transformer-XL and the Memorizing Transformer.

Read in this order; each file imports only what stands above it:

  retrieval  attention to the k best of many pairs
  readers    how they read tokens
"""
