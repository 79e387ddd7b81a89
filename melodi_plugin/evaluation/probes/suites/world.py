"""People who walk, take, drop and give: a simulator of facts, in the manner of bAbI.

Weston et al. 2015, "Towards AI-Complete Question Answering"; the simulator is our own.
"""

from typing import NamedTuple

import numpy as np

PEOPLE = ("Mary", "John", "Daniel", "Sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
_GO = ("moved to", "went to", "journeyed to", "travelled to", "went back to")
_TAKE = ("picked up", "grabbed", "took", "got")
_DROP = ("dropped", "put down", "left", "discarded")
_GIVE = ("gave", "passed", "handed")


class Known(NamedTuple):
  """Something that follows from facts."""

  what: str  # a place, or a person
  since: int  # the earliest fact that it needs


class Gift(NamedTuple):
  """Somebody gave something to somebody."""

  giver: str
  thing: str
  receiver: str
  fact: int


class World:
  """What has been told, and what follows.

  Attributes:
    facts: sentences, in order.
    people: where they are.
    holders: who has a thing.
    been: where a thing has been, one place after another.
    gifts: in order.
  """

  def __init__(self, random: np.random.Generator):
    self._random = random
    self.facts: list[str] = []
    self.people: dict[str, Known] = {}
    self.holders: dict[str, Known] = {}
    self.been: dict[str, list[Known]] = {}
    self.gifts: list[Gift] = []

  def happen(self, *, things: float = 0.0, gifts: float = 0.0) -> None:
    """Somebody does something: with a thing, a gift, or else a walk, as likely as said."""
    what = self._random.random()
    person = self._one(PEOPLE)
    if what < gifts and self.holders:
      thing = self._one(sorted(self.holders))
      self.give(thing, self._one([p for p in PEOPLE if p != self.holders[thing].what]))
    elif what < gifts + things and person in self.people:
      self._handle(person)
    else:
      here = self.people.get(person)
      self.go(person, self._one([p for p in PLACES if here is None or p != here.what]))

  def go(self, person: str, place: str) -> None:
    """A person walks, with all that the person holds."""
    fact = self._tell(f"{person} {self._one(_GO)} the {place}.")
    self.people[person] = Known(place, fact)
    for thing, holder in self.holders.items():
      if holder.what == person:
        self._at(thing, Known(place, holder.since))

  def take(self, person: str, thing: str) -> None:
    """A person takes a thing where the person is."""
    fact = self._tell(f"{person} {self._one(_TAKE)} the {thing} there.")
    here = self.people[person]
    self.holders[thing] = Known(person, fact)
    self._at(thing, Known(here.what, here.since))

  def drop(self, thing: str) -> None:
    """Who has a thing leaves it where the person is."""
    person = self.holders.pop(thing).what
    self._tell(f"{person} {self._one(_DROP)} the {thing} there.")

  def give(self, thing: str, receiver: str) -> None:
    """Who has a thing gives it away, to somebody who may be anywhere."""
    giver = self.holders[thing].what
    fact = self._tell(f"{giver} {self._one(_GIVE)} the {thing} to {receiver}.")
    self.holders[thing] = Known(receiver, fact)
    if here := self.people.get(receiver):
      self._at(thing, here)
    self.gifts.append(Gift(giver, thing, receiver, fact))

  def _handle(self, person: str) -> None:
    """Takes or drops, whatever the place allows; a walk where there is nothing to do."""
    place, thing = self.people[person].what, self._one(THINGS)
    holder, been = self.holders.get(thing), self.been.get(thing)
    if holder is None and (not been or been[-1].what == place):
      self.take(person, thing)
    elif holder is not None and holder.what == person:
      self.drop(thing)
    else:
      self.go(person, self._one([p for p in PLACES if p != place]))

  def _at(self, thing: str, known: Known) -> None:
    been = self.been.setdefault(thing, [])
    if been and been[-1].what == known.what:
      known = max(known, been.pop())  # the later fact says it, too
    been.append(known)

  def _tell(self, fact: str) -> int:
    self.facts.append(fact)
    return len(self.facts) - 1

  def _one(self, of: tuple[str, ...] | list[str]) -> str:
    return of[int(self._random.integers(len(of)))]
