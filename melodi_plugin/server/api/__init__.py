"""The server's HTTP: routes of OpenAI's protocol, and some of its own.

Read in this order; each file imports only what stands above it:

  guards      what stands before all routes: who asks, how much at once; what went wrong
  bodies      what a request says, checked
  generating  texts written for one request, told whole or as a stream
  asking      what the endpoints that write text have in common
  logprobs    how probable tokens were
  completions a text that goes on
  chat        the next message of a conversation
  tokens      texts as their tokens, and back
  models      which model is served; whether it is; what is counted
  kept        names of what is kept, as routes tell them
  memories    documents that are read once: written, listed, downloaded, uploaded, deleted
  sessions    conversations that go on: listed, forked, deleted
  response_events a response in the words of OpenAI's types, whole or as a stream
  responses   an answer that others go on from
  page/       a page to talk with the model, for browsers
  app         all routes in one application
"""
