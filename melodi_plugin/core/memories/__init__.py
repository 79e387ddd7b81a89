"""The memories that a layer can have: two for the short term, three for the long.

Read in this order; each file imports only what stands above it:

  contents    what of a window goes into memory: a mixture of its tokens, or the tokens
  short_term  tokens in front of the window: MELODI's z, or the tokens before it
  queue       a queue of tokens
  rewritten   a state that a rule rewrites at every window
  nothing     none
"""
