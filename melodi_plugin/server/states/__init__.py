"""States of texts on the disk.  Knows neither HTTP nor JAX.

Read in this order; each file imports only what stands above it:

  names       what users call things, and how a user is known without their key
  index       what is known of states, and names for them: SQLite
  rules       who finds which state, where names may move, and what has to go
  files       the folder of states: files, one process at a time
  store       states that survive: add, open, and names that move
"""
