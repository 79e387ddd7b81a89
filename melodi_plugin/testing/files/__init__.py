"""Small files and documents, of the kinds that users bring.

Read in this order; each file imports only what stands above it:

  gguf_file  GGUF files
  memory     a row with memory of every type, in a memory file
  records    documents in every format that is read
  numbers    documents of numbers, and rows that read them
  chats      a tokenizer with a chat template, and conversations
  rows       documents or conversations, and the keys of a run that reads them in rows
"""
