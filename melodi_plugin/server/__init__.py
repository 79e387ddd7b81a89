"""A model with memory over HTTP, for many at once.  Below `api/` nothing knows of HTTP.

Read in this order; each file imports only what stands above it:

  errors      what a request is refused for, and its status
  texts       what the scheduler is asked to write, and what it tells of it
  queue       texts that wait for a slot
  places      one text in a slot
  slots       what a turn reads and writes of the texts in slots
  scheduler   the thread that owns the device
  answers     texts of the scheduler's thread, in the event loop
  names       what users call things, and how a user is known without their key
  index       what is known of states, and names for them: SQLite
  rules       who finds which state, where names may move, and what has to go
  state_files the folder of states: files, one process at a time
  store       states that survive: add, open, and names that move
  conversations  what a request goes on from, and what is kept after it
  metrics     what the server counts, for Prometheus
  service     what every route needs: one model that is served
  api/        HTTP
"""
