"""BABILong's tasks 1 to 5: facts hidden in the user's documents, and a question about them.

Kuratov et al. 2024, "BABILong: Testing the Limits of LLMs with Long Context Reasoning-in-a-
Haystack"; the tasks are bAbI's.  Without its instructions and examples: an answer goes on in a
sentence that a model of plain text can go on with.
"""

import functools
from collections.abc import Callable

import numpy as np

from melodi_plugin.evaluation.probes.suites.questions import Draw, Make, Question, Sample, hide
from melodi_plugin.evaluation.probes.suites.world import PEOPLE, PLACES, THINGS, World

# Facts, and of the question: its words, those of the answer, right one, all of them, earliest fact.
Story = tuple[list[str], str, str, str, tuple[str, ...], int]
_MOST = 400  # events until there is something to ask
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def one_fact(random: np.random.Generator) -> Story:
  """Task 1: where a person is."""
  world = World(random)
  for _ in range(10):
    world.happen()
  person = sorted(world.people)[int(random.integers(len(world.people)))]
  known = world.people[person]
  words = f"Where is {person}?", f"{person} is in the"
  return world.facts, *words, known.what, PLACES, known.since


def two_facts(random: np.random.Generator) -> Story:
  """Task 2: where a thing is."""
  world = _until(random, 16, 1)
  thing, been = _thing(world, random, 1)
  words = f"Where is the {thing}?", f"The {thing} is in the"
  return world.facts, *words, been[-1].what, PLACES, been[-1].since


def three_facts(random: np.random.Generator) -> Story:
  """Task 3: where a thing was before it came to where it is."""
  world = _until(random, 24, 2)
  thing, been = _thing(world, random, 2)
  before, now = been[-2:]
  words = f"Where was the {thing} before the {now.what}?", f"Before the {now.what} it was in the"
  others = tuple(place for place in PLACES if place != now.what)  # which the question rules out
  return world.facts, *words, before.what, others, min(before.since, now.since)


def two_places(random: np.random.Generator) -> Story:
  """Task 4: which place is on which side of another."""
  first, middle, last = random.permutation(PLACES)[:3].tolist()
  above, below = random.permutation(sorted(_OPPOSITE))[:2].tolist()
  if below == _OPPOSITE[above]:  # then first and last would be on the same side of the middle
    below = above
  facts = [f"The {first} is {above} of the {middle}.", f"The {middle} is {below} of the {last}."]
  others = tuple(place for place in PLACES if place != middle)
  if random.random() < 0.5:
    asked = f"What is {above} of the {middle}?", f"{above.capitalize()} of the {middle} is the"
    return facts, *asked, first, others, 0
  asked = f"What is the {middle} {below} of?", f"The {middle} is {below} of the"
  return facts, *asked, last, others, 1


def three_people(random: np.random.Generator) -> Story:
  """Task 5: who gave what to whom."""
  world = World(random)
  for number in range(_MOST):
    world.happen(things=0.4, gifts=0.2)
    if number >= 10 and world.gifts:
      break
  giver, thing, receiver, fact = world.gifts[-1]
  kind = int(random.integers(3))
  if kind == 0:
    asked = f"Who did {giver} give the {thing} to?", f"{giver} gave the {thing} to"
    right, all_of = receiver, tuple(person for person in PEOPLE if person != giver)
  elif kind == 1:
    asked = f"Who gave the {thing} to {receiver}?", f"The {thing} was given to {receiver} by"
    right, all_of = giver, tuple(person for person in PEOPLE if person != receiver)
  else:
    asked = f"What did {giver} give to {receiver}?", f"{giver} gave {receiver} the"
    right, all_of = thing, THINGS
  return world.facts, *asked, right, all_of, fact


def _until(random: np.random.Generator, least: int, places: int) -> World:
  """A world in which a thing has been in so many places."""
  world = World(random)
  for number in range(_MOST):
    world.happen(things=0.5)
    if number >= least and any(len(been) >= places for been in world.been.values()):
      break
  return world


def _thing(world: World, random: np.random.Generator, places: int) -> tuple[str, list]:
  fit = sorted(thing for thing, been in world.been.items() if len(been) >= places)
  thing = fit[int(random.integers(len(fit)))]
  return thing, world.been[thing]


def make(story: Callable[[np.random.Generator], Story], draw: Draw) -> Sample:
  """A story in `size` sentences of the user's documents."""
  facts, asked, answer, right, all_of, earliest = story(draw.random)
  text, starts = hide(draw.random, draw.texts.some(draw.random, draw.size), facts, "")
  wrong = tuple(f" {other}" for other in all_of if other != right)
  prompt = f"\nQuestion: {asked}\nAnswer: {answer}"
  return Sample(text, [Question(prompt, (f" {right}",), wrong, (starts[earliest],))])


_STORIES = (one_fact, two_facts, three_facts, two_places, three_people)
TASKS: dict[str, Make] = {
  f"qa{number}": functools.partial(make, story) for number, story in enumerate(_STORIES, start=1)
}
