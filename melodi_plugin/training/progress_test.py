"""What a person sees of a training: lines per period, or a bar; and figures that add up."""

import io

from rich.console import Console

from melodi_plugin.training import progress
from melodi_plugin.training.progress import Progress, Screen


def test_figures_are_of_all_steps_but_the_first(monkeypatch):
  clock = iter([100.0, 100.0, 110.0, 120.0])
  monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
  counted = Progress(steps=10, slots=200)
  scalars = {"learning/lm_loss": 2.5, "learning/total_weights": 150.0}
  assert counted.step_done(4, scalars) == "step 5 of 10, loss 2.500"
  distilled = scalars | {"melodi/distill": 0.25}
  said = Progress(steps=10, slots=200).step_done(0, distilled)
  assert said == "step 1 of 10, loss 2.500, from the teacher 0.250"
  counted.step_done(5, scalars | {"perf/input_wait_seconds": 1.0})
  assert counted.step_done(6, scalars) == (
    "step 7 of 10, loss 2.500, 15 tokens/s, input wait 5.0 %, padding 25.0 %, ETA 0:00:30"
  )


def shown(**terminal) -> str:
  console = Console(file=io.StringIO(), width=200, **terminal)
  with Screen(steps=7, period=3, console=console) as screen:
    for step in range(2, 7):
      screen.show(step, f"step {step + 1} [a]")
    screen.say("a line [b]")
  return console.file.getvalue()


def test_lines_are_of_the_first_step_of_every_period_and_of_the_last():
  assert shown().splitlines() == ["step 3 [a]", "step 6 [a]", "step 7 [a]", "a line [b]"]


def test_bar_goes_to_the_end_on_a_terminal():
  text = shown(force_terminal=True)
  assert "step 7 [a]" in text and "a line [b]" in text and "━" in text
