"""How things look: pictures, tables, files.

Read in this order; each file imports only what stands above it:

  figures  the looks of all pictures
  tables   tables for the screen and as Markdown
  bars     progress of reading
  files    files in folders that may be remote
  lock     one process at a time in such a folder
"""
