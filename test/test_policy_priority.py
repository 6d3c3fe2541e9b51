"""Plain priorities: the class first, then arrival, under a token budget."""

from builders import CONTROL, PAPER, QA, a_task

from slice_ros.scheduling.policies import Limits, make_policy
from slice_ros.scheduling.policies.priority import Priority


def cells(policy, tasks, limits=None):
    (column,) = policy.plan(tasks, 0.0, PAPER, limits or Limits()).columns
    return [(cell.goal_id, cell.prompt_tokens) for cell in column]


def begun(task):
    task.prompt_left = 0
    return task


def test_real_time_comes_first_then_who_came_first():
    tasks = [begun(a_task(name, slo, order=i)) for i, (name, slo) in enumerate((("a", QA), ("b", CONTROL), ("c", QA), ("d", CONTROL)))]
    assert cells(make_policy("priority"), tasks) == [("b", 0), ("d", 0), ("a", 0), ("c", 0)]
    assert cells(make_policy("priority"), tasks, Limits(max_batch=3)) == [("b", 0), ("d", 0), ("a", 0)]


def test_prompts_share_what_decodes_leave_of_the_budget():
    tasks = [
        a_task("long", QA, order=0, prompt_tokens=100),
        begun(a_task("chat", QA, order=1)),
        a_task("late", QA, order=2, prompt_tokens=9),
    ]
    assert cells(Priority(step_tokens=50), tasks) == [("long", 48), ("chat", 0), ("late", 1)]
    assert cells(Priority(), tasks) == [("long", 100), ("chat", 0), ("late", 9)]
