"""What the suites ask: samples that hold what is asked for, facts that can be followed, lengths."""

import itertools
import re

import numpy as np
import pytest

from melodi_plugin.evaluation.probes.suites import needles, stories, suite
from melodi_plugin.evaluation.probes.suites.fitting import fit
from melodi_plugin.evaluation.probes.suites.questions import Draw, hide
from melodi_plugin.evaluation.probes.suites.texts import Texts
from melodi_plugin.evaluation.probes.suites.world import PLACES, World

WORDS = [f"{a}{b}{c}ing" for a, b, c in itertools.product("bdfg", "aeo", "lmn")]
TEXTS = Texts([" ".join(WORDS[i : i + 6]).capitalize() + "." for i in range(len(WORDS) - 5)])
ALL = suite.RULER | suite.BABILONG


def draw(size: int = 40, seed: int = 0, length: int = 4096) -> Draw:
  return Draw(np.random.default_rng(seed), TEXTS, size, length)


@pytest.mark.parametrize("task", ALL)
def test_every_task_asks_for_what_its_text_holds(task):
  for seed in range(5):
    sample = ALL[task](draw(seed=seed))
    for question in sample.questions:
      assert len(question.right) == len(question.facts)
      assert len({*question.right, *question.wrong}) == len(question.right + question.wrong)
      assert all(answer[0] == " " for answer in question.right + question.wrong)
      for right, fact in zip(question.right, question.facts, strict=True):
        assert 0 <= fact < len(sample.text)
        assert right.strip() in sample.text
        # Nothing is needed that stands in front of the earliest fact.
        assert not task.startswith("niah") or right.strip() not in sample.text[:fact].split()
  assert ALL[task](draw()) == ALL[task](draw())


@pytest.mark.parametrize("task", needles.KINDS)
def test_needles_say_which_value_a_key_has(task):
  kind, sample = needles.KINDS[task], needles.TASKS[task](draw())
  said = re.findall(r"magic (?:number|uuid)s for (\S+) is: (\S+)\.", sample.text)
  others = 40 if kind.hay == "needles" else 0
  assert len(said) == len(set(said)) == kind.keys + kind.values - 1 + others
  assert len(sample.questions) == kind.queries
  for question in sample.questions:
    (key,) = set(re.findall(r"for (\S+) mentioned", question.prompt))
    right = [f" {value}" for own, value in said if own == key]
    assert sorted(right) == sorted(question.right) and len(question.wrong) == 7
    seen = [value for _, value in said if f" {value}" in question.wrong]
    assert len(seen) == min(7, len(said) - len(right))
    for answer, fact in zip(question.right, question.facts, strict=True):
      sentence = sample.text[fact : sample.text.index(".", fact)]
      assert key in sentence and sentence.endswith(answer)


def test_common_and_frequent_words_are_most_often_there():
  for task in ("common_words", "frequent_words"):
    for size in (10, 100, 1000):
      sample = ALL[task](draw(size if task == "frequent_words" else size // 4))
      (question,) = sample.questions
      words = sample.text.split()
      least = min(words.count(answer.strip()) for answer in question.right)
      assert least > max(words.count(answer.strip()) for answer in question.wrong)


def follow(facts: list[str]) -> dict[str, list[str]]:
  """Where the facts say that things have been: the truth of the simulator, told otherwise."""
  where: dict[str, str] = {}
  holder: dict[str, str] = {}
  been: dict[str, list[str]] = {}
  for fact in facts:
    who, last = fact.split()[0], fact.rstrip(".").split()[-1]
    thing = next((t for t in ("apple", "football", "milk") if f"the {t}" in fact), None)
    if last in PLACES:
      where[who] = last
    elif fact.endswith("there.") and any(w in fact for w in ("picked", "grabbed", "took", "got")):
      holder[thing or ""] = who
    elif fact.endswith("there."):
      holder.pop(thing or "", None)
    for own, person in holder.items():
      if person in where and been.setdefault(own, [""])[-1] != where[person]:
        been[own].append(where[person])
  return {thing: places[1:] for thing, places in been.items()}


@pytest.mark.parametrize("seed", range(30))
def test_stories_are_true(seed):
  random = np.random.default_rng(seed)
  for story, back in ((stories.two_facts, 1), (stories.three_facts, 2)):
    facts, question, _, right, _, earliest = story(random)
    thing = re.search(r"the (apple|football|milk)", question)
    assert thing is not None and follow(facts)[thing[1]][-back] == right
    # What happened before the earliest fact is not needed.
    later = follow(facts[earliest:]).get(thing[1], [])
    assert back == 2 or later[-1:] == [right]
  facts, question, _, right, _, earliest = stories.one_fact(random)
  person = question.split()[-1].rstrip("?")
  assert [fact for fact in facts if fact.startswith(person)][-1] == facts[earliest]
  assert facts[earliest].endswith(f"the {right}.")
  facts, _, answer, right, others, _ = stories.two_places(random)
  assert right in others and len(others) == 5
  said = f"{answer} {right}.".lower()
  assert any(said in (fact.lower(), _turned(fact).lower()) for fact in facts)
  facts, _, answer, right, others, earliest = stories.three_people(random)
  assert right in others and right in facts[earliest]


@pytest.mark.parametrize("seed", range(30))
def test_only_one_place_is_on_the_side_that_is_asked_for(seed):
  facts, question, _, right, *_ = stories.two_places(np.random.default_rng(seed))
  turned = dict(north="south", south="north", east="west", west="east")
  known = set()
  for fact in facts:
    first, direction, second = re.findall(r"The (\w+) is (\w+) of the (\w+)\.", fact)[0]
    known |= {(first, direction, second), (second, turned[direction], first)}
  if asked := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
    found = [place for place, *side in known if side == list(asked.groups())]
  else:
    middle, direction = re.findall(r"What is the (\w+) (\w+) of\?", question)[0]
    found = [place for *side, place in known if side == [middle, direction]]
  assert found == [right]


def _turned(fact: str) -> str:
  first, direction, second = re.findall(r"The (\w+) is (\w+) of the (\w+)\.", fact)[0]
  return f"{direction} of the {second} is the {first}."


def test_a_thing_that_is_taken_again_is_known_from_the_later_fact():
  world = World(np.random.default_rng(0))
  world.go("Mary", "kitchen")
  world.take("Mary", "milk")
  world.drop("milk")
  world.go("John", "kitchen")
  world.take("John", "milk")
  assert [known.since for known in world.been["milk"]] == [3]
  world.go("John", "garden")
  assert [(known.what, known.since) for known in world.been["milk"]][1] == ("garden", 4)


def test_a_thing_that_is_given_away_is_where_its_receiver_is():
  world = World(np.random.default_rng(0))
  world.go("Mary", "kitchen")
  world.go("John", "garden")
  world.take("Mary", "milk")
  world.give("milk", "John")
  world.give("milk", "Sandra")  # of whom nothing is known yet
  world.go("Sandra", "office")
  places = [(known.what, known.since) for known in world.been["milk"]]
  assert places == [("kitchen", 0), ("garden", 1), ("office", 4)]


def test_hidden_facts_keep_their_order_and_their_places():
  for seed in range(20):
    text, starts = hide(np.random.default_rng(seed), ["hay."] * 3, ["one.", "two.", "one."], "In: ")
    assert [text[start : start + 4] for start in starts] == ["one.", "two.", "one."]
    assert text.startswith("In: ") and text.count("hay.") == 3


@pytest.mark.parametrize("task", ALL)
@pytest.mark.parametrize("length", [800, 3000])
def test_samples_fill_the_length_and_no_more(task, length):
  def count(sample):
    return len(re.findall(r"\w+|\W", sample.text)) + 60

  sample = fit(ALL[task], (1, 2), TEXTS, length, count)
  assert sample is not None and 0.7 * length < count(sample) <= length
  assert fit(ALL[task], (1, 2), TEXTS, 70, count) is None


def test_texts_without_words_are_refused():
  with pytest.raises(ValueError, match="have 1 different words"):
    Texts(["words 12 x"])
  with pytest.raises(ValueError, match="names are more than"):
    TEXTS.names(np.random.default_rng(0), 10**5)
