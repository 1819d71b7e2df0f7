"""When a plain container that has ended is started again, and after which pause."""

import pytest

from weft.model.meta import SECOND
from weft.model.plain_container import FIRST_PAUSE, LAST_PAUSE, LONG, RestartRule, restart_pause


@pytest.mark.parametrize(
    ("rule", "code", "restarts", "by_user", "applies"),
    [
        (RestartRule(), 1, 0, False, False),
        (RestartRule("always"), 0, 1000, False, True),
        (RestartRule("always"), 0, 0, True, True),
        (RestartRule("unless-stopped"), 0, 0, False, True),
        (RestartRule("unless-stopped"), 1, 0, True, False),
        (RestartRule("on-failure"), 0, 0, False, False),
        (RestartRule("on-failure"), 1, 1000, False, True),
        (RestartRule("on-failure", 2), 1, 1, False, True),
        (RestartRule("on-failure", 2), 1, 2, False, False),
    ],
)
def test_the_policy_says_who_is_started_again(
    rule: RestartRule, code: int, restarts: int, by_user: bool, applies: bool
) -> None:
    assert rule.applies(code, restarts=restarts, by_user=by_user) is applies


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_long_run() -> None:
    pauses = [restart_pause(0, 0)]
    while pauses[-1] < LAST_PAUSE:
        pauses.append(restart_pause(pauses[-1], LONG - 1))
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == restart_pause(pauses[-1], 0) == 60 * SECOND
    assert restart_pause(LAST_PAUSE, LONG) == FIRST_PAUSE
