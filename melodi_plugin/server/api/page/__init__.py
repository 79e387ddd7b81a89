"""A page to talk with the model, for browsers.

index.html, page.css, page.js (which imports server.js, shown.js and talk.js) and icon.svg are all:

  routes      its files, and what it has to know of the server
"""
