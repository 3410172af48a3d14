"""`recover_partial` for task code and scripts: what a failure had done already, so that the next run need not."""

from __future__ import annotations

from typing import Any

from cascadenced.in_either_world import blocking_unless_in_a_loop
from cascadenced.replaying import goes_unheard


def recover_partial(task_name: str, stage: str, *, user_id: str | None = None, group_id: str | None = None) -> Any:
    """The `.partial` of the newest failure of that stage of the task, as far as it was JSON; None if there is none.

    stage: a stage of the pipeline, or `execute` for `run`.  user_id, group_id: whose runs count; everybody's if not
    given. Asks the daemon of the configured data folder if one is up, else reads the folder. In a script, or a plain
    hook of a task, this blocks; where an event loop is running it returns a coroutine to await. While a run is
    performed again there is none. Raises Invalid.
    """
    arguments = {"task": task_name, "stage": stage, "user_id": user_id, "group_id": group_id}

    async def work() -> Any:
        if goes_unheard():
            return None
        # A face: imported only when used, because tasks import this package and must not pull in every floor.
        from cascadenced.commands.door import ask

        return (await ask("partial", arguments))["partial"]

    return blocking_unless_in_a_loop(work())
