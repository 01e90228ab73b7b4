from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# In a process of its own: what others freed before would hide what this takes.
SCRIPT = """
import resource, numpy, torch
from transformers import AutoModelForCausalLM
from evaluation.engine.scoring import Scorer
from evaluation.engine.sequences import Sequences

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB on Linux

torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained("models/sotu-neox-32x2", dtype=torch.float32).eval()
tokens = numpy.random.default_rng(0).integers(0, 2048, (460, 200)).tolist()
scorer = Scorer(model, 256)
scorer.score(Sequences.of([(row, 199) for row in tokens[:60]]))
before = peak()
scorer.score(Sequences.of([(row, 199) for row in tokens[60:]]))
print(peak() - before)
"""


def test_memory_does_not_grow_with_what_is_scored():
    """622 MiB of logits pass through; results kept among them once held on to 268 of these."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) < 64
