"""Whole documents read by a checkpoint, and what that says.

Read in this order; each file imports only what stands above it:

  conditions   what memory does while a model reads, and which checkpoint it is
  reading      the loss of every token, memory carried
  from_memory  the same behind a memory that was made before
  losses       the loss of every token in a file
  statistics   perplexities and their intervals
  plots        the two pictures of a report
  report       evaluations side by side: Markdown, CSV, pictures
  probes/      recall against distance
  evaluate     all of it for a config
"""
