"""A llama GGUF file as a stock checkpoint of MaxText.

Read in this order; each file imports only what stands above it:

  header      its keys and values, checked
  reader      the file, read within its bounds
  parameters  its tensors as MaxText's parameters
  tokenizer   its tokenizer as a Hugging Face fast tokenizer
  importer    all of it, with a config
"""
