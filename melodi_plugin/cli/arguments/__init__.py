"""What every verb takes: words, options, and the keys that its help explains.

Read in this order; each file imports only what stands above it:

  keys         the keys of a config that the help of a verb explains
  models       of verbs that train, read, write and change models
  corpora      of verbs that make or look at documents
  experiments  of verbs that count, compare and measure
"""
