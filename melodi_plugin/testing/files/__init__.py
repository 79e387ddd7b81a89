"""Small files of the kinds that users bring.

Read in this order; each file imports only what stands above it:

  gguf_file  GGUF files
  chats      a tokenizer with a chat template, and conversations
"""
