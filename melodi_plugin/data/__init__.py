"""The data path: files of documents become sticky batch rows, batch after batch.

Reading order:

  files.py       patterns, local or remote, as files
  records.py     a document, its fields, and what a broken one is
  formats.py, parquet.py   the documents of one file
  documents.py   all of them as one random-access sequence
  tokenizer.py   MaxText's tokenizer, with checked ids
  read_ahead.py  documents tokenized before they are needed
  order.py       which document a row reads next
  row.py         one row: its place in its documents
  rows.py        batches whose rows read one document after another (Grain)
  padding.py     what of the batches is padding, for a corpus and a batch
  skipped.py     the list of broken documents that were left out
  pipeline.py    the same for a MaxText config: training, evaluation, document-wise evaluation
  corpus/        text becomes sharded ArrayRecord with a manifest
  __main__.py    `python -m melodi_plugin.data ...`

Only pipeline.py and tokenizer.py import MaxText.
"""
