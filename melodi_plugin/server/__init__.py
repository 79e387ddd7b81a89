"""A model with memory over HTTP, for many at once.  Below `api/` nothing knows of HTTP.

Read in this order; each file imports only what stands above it:

  errors      what a request is refused for, and its status
  texts       what the scheduler is asked to write, and what it tells of it
  queue       texts that wait for a slot
  places      one text in a slot
  slots       what a turn reads and writes of the texts in slots
  scheduler   the thread that owns the device
  answers     texts of the scheduler's thread, in the event loop
  states/     states of texts on the disk
  conversations  what a request goes on from, and what is kept after it
  metrics     what the server counts, for Prometheus
  service     what every route needs: one model that is served
  api/        HTTP
  opening     a service made of a config
  process     listens, loads, answers, and ends
"""
