"""Files of documents become sticky batch rows, batch after batch.

Read in this order; each file imports only what stands above it:

  files       patterns, local or remote, as files
  records     a document, its fields, and what a broken one is
  parquet     documents of a Parquet file
  formats     documents of one file of any format
  documents   all of them as one random-access sequence
  tokenizer   MaxText's tokenizer, with checked ids
  spans       which characters of a text every token stands for
  chat        a conversation becomes tokens, and which of them are answers
  read_ahead  documents tokenized before they are needed
  order       which document a row reads next
  place       the saved place of rows in their documents, checked
  row         one row: its place in its documents
  rows        batches whose rows read one document after another (Grain)
  padding     what of the batches is padding
  skipped     the list of broken documents that were left out
  corpus/     text becomes sharded ArrayRecord with a manifest
"""
