"""What every picture must not get wrong: whole steps, plain numbers, a legend beside the curves."""

import pytest

from melodi_plugin.output.figures import (
  in_full,
  new_figure,
  over_steps,
  png,
  show_differences,
  style,
)


def drawn(x, y):
  figure, [axes] = new_figure(3.0)
  axes.plot(x, y, label="curve", **style(0))
  return figure, axes


def test_few_steps_have_no_half_steps_between_them():
  _, axes = drawn([0, 3], [1, 2])
  over_steps(axes)
  assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_a_curve_that_does_not_move_is_flat_and_its_axis_has_plain_numbers():
  figure, axes = drawn([0, 1], [0.1192, 0.1192 + 1e-8])
  in_full(axes, least=1e-3)
  figure.draw_without_rendering()
  low, high = axes.get_ylim()
  assert high - low == pytest.approx(1e-3)
  assert axes.yaxis.get_offset_text().get_text() == ""
  assert all(label.get_text().startswith("0.1") for label in axes.get_yticklabels())


def test_a_curve_that_moves_has_the_height_it_needs():
  _, axes = drawn([0, 1], [0, 5])
  before = axes.get_ylim()
  in_full(axes, least=1e-3)
  assert axes.get_ylim() == before


@pytest.mark.parametrize(
  "telling, limits",
  [([-0.2, -0.1], (-0.22, 0.02)), ([0.1, 0.3], (-0.03, 0.33)), ([-1.0, 1.0], (-1.2, 1.2))],
)
def test_differences_are_shown_with_the_zero_that_they_are_measured_from(telling, limits):
  _, axes = drawn([0, 1], [9, 9])
  show_differences(axes, telling)
  assert axes.get_ylim() == pytest.approx(limits)


def test_legend_lies_above_all_panels_and_names_a_curve_once():
  figure, panels = new_figure(4.0, rows=2)
  for axes in panels:
    for number, name in enumerate(("one", "another")):
      axes.plot([0, 1], [number, 2], label=name, **style(number))
  assert png(figure).startswith(b"\x89PNG")
  [legend] = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ["one", "another"]
  figure.draw_without_rendering()
  assert legend.get_window_extent().y0 >= panels[0].get_window_extent().y1


def test_long_names_stand_below_each_other():
  figure, [axes] = new_figure(4.0)
  for number in range(3):
    axes.plot([0, 1], [number, 2], label=f"{number} {'x' * 50}", **style(number))
  png(figure)
  assert figure.legends[0]._ncols == 1
