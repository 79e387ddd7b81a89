"""A model with memory over HTTP, for many at once.  Below `api/` nothing knows of HTTP.

Read in this order; each file imports only what stands above it:

  errors      what a request is refused for, and its status
  texts       what the scheduler is asked to write, and what it tells of it
  answers     texts of the scheduler's thread, in the event loop
  metrics     what the server counts, for Prometheus
  service     what every route needs: one model that is served
  api/        HTTP
"""
