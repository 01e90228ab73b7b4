"""Freed memory that the C library keeps: it goes back once there is much of it."""

import subprocess
import sys

from orchestrator.paths import ROOT

# Pieces below the size that glibc maps by itself, a small one that stays after each.
PILED_UP = """
import torch
from orchestrator.run.freed_memory import GROWTH, FreedMemory, resident_bytes
freed = FreedMemory()
freed.give_back()
before = resident_bytes()
pieces = [(torch.ones(2**13), torch.ones(2**6)) for _ in range(20_000)]
kept = [small for _, small in pieces]
del pieces
piled_up = resident_bytes()
assert piled_up > before + GROWTH, piled_up - before
freed.give_back()
after = resident_bytes()
assert after < before + GROWTH / 2, after - before  # the small ones hold a page each
few = [torch.ones(2**13) for _ in range(100)]
del few
freed.give_back()  # too little to be worth it
"""


def test_what_piles_up_is_given_back():
    run = subprocess.run([sys.executable, "-c", PILED_UP], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
