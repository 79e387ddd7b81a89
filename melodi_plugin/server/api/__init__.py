"""The server's HTTP: routes of OpenAI's protocol, and some of its own.

Read in this order; each file imports only what stands above it:

  guards      what stands before all routes: who asks, how much at once; what went wrong
  bodies      what a request says, checked
  models      which model is served; whether it is; what is counted
  kept        names of what is kept, as routes tell them
  sessions    conversations that go on: listed, forked, deleted
  app         all routes in one application
"""
