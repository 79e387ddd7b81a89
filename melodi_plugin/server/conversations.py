"""What a request goes on from, and what is kept after it: a response, a session or a memory."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio.to_thread
import numpy as np

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.store import State, Store, new_id
from melodi_plugin.server.texts import Finished, Prompt


@dataclasses.dataclass(frozen=True)
class Conversation:
  """A text that one request goes on with.

  Attributes:
    store: where it is kept; None if nothing is.
    owner: whose it is.
    kind: of the state that is kept: "response", or "session".
    state: what it goes on from; None at a beginning.
    session: the name that moves, and the id of the state that it points to; None if none does.
    id: of the state that is kept; may be told before it is.
    claims: on the session; given up once the state is kept, so that whoever hears of that can go
      on at once.
  """

  store: Store | None
  owner: str
  kind: str
  state: State | None
  session: tuple[str, str | None] | None
  id: str
  claims: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

  def prompt(self, ids: Sequence[int] | np.ndarray) -> Prompt:
    """What the scheduler is to read for these tokens; Refused if there is nothing to read."""
    if self.state is None:
      prompt = Prompt(np.asarray(ids, np.int32))
    else:
      behind = np.concatenate([self.state.pending, ids]).astype(np.int32)
      prompt = Prompt(behind, self.state.row, self.state.entry.id)
    if not len(prompt.ids):
      raise Refused(400, "The prompt is empty; write some text.")
    return prompt

  async def keep(
    self, finished: Finished, *, body: dict[str, Any] | None = None, title: str = ""
  ) -> None:
    """The state is on the disk, and the session has moved to it, when this returns.

    Args:
      finished: what the scheduler told at last of a text with `keep`.
      body: what `Store.body` gives back.
      title: for people.

    Raises:
      Refused: 409 if the session was moved or deleted meanwhile; and as `Store.add`.
    """
    store, (row, pending) = self.store, finished
    assert store is not None and row is not None  # else there is nothing to call this for

    def add() -> None:
      store.add(
        self.owner,
        self.kind,
        row,
        pending,
        tokens=row.tokens + len(pending),
        parent=self.state.entry.id if self.state else "",
        title=title,
        body=body,
        session=self.session,
        id=self.id,
      )

    await anyio.to_thread.run_sync(add)
    self.claims.close()


@contextlib.asynccontextmanager
async def conversation(
  store: Store | None,
  owner: str,
  kind: str,
  *,
  previous_response_id: str | None = None,
  session: str | None = None,
  memory: str | None = None,
) -> AsyncIterator[Conversation]:
  """What a request goes on from; its session is no other request's within the block.

  Args:
    store: None if the server keeps nothing.
    owner: whose request it is.
    kind: "response" if what is kept is to be found by its id, "session" if by the session only.
    previous_response_id: goes on from a response.
    session: goes on from where a session is, and moves it; a new one begins if there is none.
    memory: goes on from a memory, which stays as it is; a new session may begin with it.

  Raises:
    Refused: 400 if these do not go together, 404 if one is not there, 409 if another request has
      the session, or if the state is of another model.
  """
  given = {"previous_response_id": previous_response_id, "session": session, "memory": memory}
  for name, value in given.items():
    if store is None and value is not None:
      raise Refused(
        400,
        f"{name} is refused: this server keeps nothing; leave it out, or start the server with "
        "melodi_serve_folder.",
        param=name,
      )
  if previous_response_id is not None and (session or memory) is not None:
    raise Refused(
      400,
      "A request goes on from a previous_response_id, or from a session or memory; leave one out.",
      param="previous_response_id",
    )
  with contextlib.ExitStack() as claims:
    state = head = None
    if store is not None:
      if session is not None:
        claims.enter_context(store.claims.claimed("session", owner, session))
      state, head = await anyio.to_thread.run_sync(
        _start, store, owner, previous_response_id, session, memory
      )
    moves = None if session is None else (session, head)
    yield Conversation(store, owner, kind, state, moves, new_id(kind), claims)


def _start(
  store: Store,
  owner: str,
  previous_response_id: str | None,
  session: str | None,
  memory: str | None,
) -> tuple[State | None, str | None]:
  """The state to go on from, and where the session is."""
  if previous_response_id is not None:
    return store.open(owner, previous_response_id), None
  if session is not None and store.head("session", owner, session):
    if memory is not None:
      raise Refused(
        400,
        f"The session {session} has begun already, and cannot begin with a memory; leave memory "
        "out.",
        param="memory",
      )
    state = store.open_named("session", owner, session)
    return state, state.entry.id
  return (None if memory is None else store.open_named("memory", owner, memory)), None
