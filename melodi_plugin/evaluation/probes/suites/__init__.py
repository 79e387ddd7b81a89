"""Suites of questions about long texts: RULER's generated tasks, and BABILong's first five.

Read in this order; each file imports only what stands above it:

  texts      what the user's documents give: sentences to hide things in, words for names
  questions  a text, what is asked of it, and which answers are right
  needles    RULER: values hidden under keys
  tracing    RULER: variables that are assigned to each other
  counting   RULER: the words that a list or a text has most often
  world      people who walk, take, drop and give: facts, and what follows from them
  stories    BABILong's tasks 1 to 5, told in facts of that world
  fitting    a text of so many tokens
  forks      a text is read once, and its answers are scored from what is remembered
  tally      right answers by task, length and distance; intervals over texts
  suite      all of it for a config
"""
