"""A page to talk with the model, for browsers.

index.html, page.css, page.js (which imports server.js and shown.js) and icon.svg are all of it:

  routes      its files, and what it has to know of the server
"""
