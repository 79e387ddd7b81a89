"""Text from a model with memory: rows that read and write, token by token, in slots.

Read in this order; each file imports only what stands above it:

  sampling_settings  what a request may ask of the next token
  sampling           the next token of every row, drawn on the device
  snapshots          what rows remembered after prefixes that were read before
  programs           the compiled functions, whose shapes are fixed
  engine             slots that read and write, and their states
  stock              a stock decoder in the place of an engine
  prefixes           texts that begin as others did, read only once
  text               tokens become text while they come; stop strings
  prompts            where the text that is read comes from
  checkpoint         a checkpoint with its tokenizer in an engine; its memory files
  writing            a text that goes on
  session            one text, read and written in turns
  memorize           many documents read once, each into a memory file
"""
