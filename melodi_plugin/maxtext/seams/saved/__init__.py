"""What a checkpoint holds, and how a run goes on from it.

Read in this order; each file imports only what stands above it:

  checksums        checksums in checkpoints
  restored_memory  memory of a checkpoint in a model whose memory has another length
  restored_place   the place in the documents, for as many processes and rows as there are now
  restore          which checkpoint a run goes on from, and what is restored of it
"""
