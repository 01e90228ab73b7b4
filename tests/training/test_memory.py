"""Freed memory is kept: a second tensor of the size costs no new pages. In processes of their own,
for what is set stays set."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages: a fault is a page of 4 KiB
from training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.slow  # pages are the machine's: under load it was seen to give all of them back
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_second_tensor_costs_no_new_pages():
    faults = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["given back"] > 1000 and faults["kept"] < 100
