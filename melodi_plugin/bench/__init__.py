"""How fast it is.

Read in this order; each file imports only what stands above it:

  timing    seconds by the clock and of all cores; how fast this machine multiplies
  windows   trace, compile, step time and memory against the number of windows
  peers     the systems that are put side by side, as keys
  systems   they train and read whole documents, in turn
  decode    time, bytes and programs per token that is written, against what was read
  waits     what is measured of a server
  serve     what clients of a server wait for
  hlo       a compiled program, read from its text
  compiled  what a compiled training step costs: memory, products, traffic
  figures   tables and the picture of what was measured
"""
