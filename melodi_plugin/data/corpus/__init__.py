"""Text becomes a corpus: sharded ArrayRecord, split by group, with a manifest.

Reading order:

  sources.py           folders of text or code, files of records
  plan.py              a first pass: what there is, what is broken or double
  split.py             groups of documents for training, validation and test
  corpus_tokenizer.py  a tokenizer that is there, or one trained on the training texts
  lengths.py           the histogram of lengths
  build.py             a second pass that writes the folder, in one step
  shakespeare.py       the plays of the demo
  presets.py           corpora that are made by name
"""
