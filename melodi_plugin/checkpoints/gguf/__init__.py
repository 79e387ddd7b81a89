"""A llama GGUF file as a stock checkpoint of MaxText.

Read in this order; each file imports only what stands above it:

  parameters  its tensors as MaxText's parameters
  tokenizer   its tokenizer as a Hugging Face fast tokenizer
  importer    all of it, with a config
"""
