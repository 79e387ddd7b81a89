"""How fast it is.

Read in this order; each file imports only what stands above it:

  windows  trace, compile, step time and memory against the number of windows
  decode   time, bytes and programs per token that is written, against what was read
  waits    what is measured of a server
  serve    what clients of a server wait for
  figures  tables and the picture of the last two
"""
