"""All that can be checked without MaxText, in one table; `training` has the rest."""

from melodi_plugin.conformance import segments, verbs
from melodi_plugin.conformance.stacks import Check, Subject

CHECKS: tuple[Check, ...] = (
  segments.schedules_agree,
  segments.equals_naive,
  segments.packed_equals_alone,
  segments.gradients_stay_in_their_document,
  segments.gradients_reach_memory,
  segments.what_is_not_finite_stays_in_its_document,
  segments.documents_begin_without_memory,
  segments.segments_can_be_cut_anywhere,
  segments.padding_leaves_no_trace,
  verbs.verbs_equal_schedule,
)


def checks(subject: Subject) -> tuple[Check, ...]:
  """Those that fit a system: without a slow truth nothing is compared with it."""
  return tuple(
    check for check in CHECKS if subject.read_window or check is not segments.equals_naive
  )
