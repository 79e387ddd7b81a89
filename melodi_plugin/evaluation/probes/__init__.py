"""Recall probes: what a model still knows of what it read d windows ago.

Read in this order; each file imports only what stands above it:

  plots       the picture: recall against distance
  result      what a probe finds, as JSON, CSV, Markdown and table
  reading     how documents are scored
  mqar        key-value pairs, defined once and asked for later
  spans       which characters a token stands for
  passkey     a number hidden in filler text
  rare_words  names in real documents: loss on their repetitions
  run         the probe that a config names
"""
