"""The collector rests while a process starts, and works now and then afterwards."""

from __future__ import annotations

import gc

from cascadenced import garbage


def test_it_looks_seldom_at_the_start_and_now_and_then_afterwards():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        garbage.starting()
        assert gc.isenabled()
        at_start = gc.get_threshold()[0]
        garbage.started()
        assert usual[0] < gc.get_threshold()[0] < at_start
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
