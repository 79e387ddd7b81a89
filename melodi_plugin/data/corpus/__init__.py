"""Text becomes a corpus: sharded ArrayRecord, split by group, with a manifest.

Read in this order; each file imports only what stands above it:

  corpus_tokenizer  a tokenizer that is there, or one trained on the training texts
  lengths           the histogram of lengths
  split             groups of documents for training, validation and test
  plan              a first pass: what there is, what is broken or double
  sources           folders of text or code, files of records
  build             a second pass that writes the folder, in one step
  shakespeare       the plays of the demo
  mqar              the task of the recall probe, and its documents
  recall            the task of the probe of long delays, and its documents
  download          files that are published, copied here
  published         PG-19, arXiv Math, C4 and GitHub, as they are published
  presets           corpora that are made by name
"""
