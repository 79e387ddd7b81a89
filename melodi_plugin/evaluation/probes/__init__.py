"""Recall probes: what a model still knows of what it read d windows ago.

Read in this order; each file imports only what stands above it:

  result      what a probe finds, and its table
  plots       the picture: recall against distance
  reading     how documents are scored
  mqar        key-value pairs, defined once and asked for later
  recall      the same, asked for after thousands of windows
  passkey     a number hidden in filler text
  rare_words  names in real documents: loss on their repetitions
  paired      the same tokens with memory and without: what it is worth
  new_names   names that a document defines: loss on their uses
  longppl     tokens that need far context: perplexity on them
  suites/     questions about long texts: RULER, BABILong
  pages       results as tables, pictures and files
  run         the probe that a config names
"""
