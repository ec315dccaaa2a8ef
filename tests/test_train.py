import pytest

from distill import train
from distill.types import Status, Stop


class TestPlan:

  def test_what_is_due(self):
    plan = train.Plan(steps=10, save_every=4)
    assert [n for n in range(1, 11) if plan.due(plan.save_every, n)] == [4, 8, 10]
    assert [n for n in range(1, 11) if plan.due(0, n)] == [10]

  @pytest.mark.parametrize('wrong', [
      dict(steps=0), dict(accumulate=0), dict(log_every=-1), dict(dtype='float64'),
      dict(log_every=20, eval_every=30), dict(log_every=0, eval_every=5)])
  def test_what_cannot_be_is_refused(self, wrong):
    with pytest.raises(ValueError):
      train.Plan(**{'steps': 5, **wrong})


class TestRun:

  def test_a_signal_outside_the_loop_stops_at_once(self, tmp_path):
    run = train.Run('name', tmp_path, None)
    with pytest.raises(Stop, match='everything saved') as stop:
      run.preempt()
    assert stop.value.status == Status.PREEMPTED

  def test_inside_the_loop_it_waits_for_the_end_of_the_step(self, tmp_path):
    run, reached = train.Run('name', tmp_path, None), []
    with pytest.raises(Stop), run.deferring():
      run.preempt()
      reached.append('saved')
    assert reached == ['saved']
