"""The collector rests while a process starts, and works as usual afterwards."""

from __future__ import annotations

import gc

from cascadenced import garbage


def test_it_looks_seldom_at_the_start_and_as_usual_afterwards():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        garbage.starting()
        assert gc.isenabled()
        assert gc.get_threshold()[0] > usual[0]
        garbage.started()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)
