"""A model that can be scored at no setting: one line, exit code 2, read once, the others go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit import cli
from orchestrator.paths import ROOT
from orchestrator.store.store import Store
from orchestrator.sweep import main
from quantizers import loading
from quantizers.checkpoint import UnusableModel
from quantizers.hub import HubUnreachable, Repository
from quantizers.resident import ResidentModel
from tests.orchestrator.conftest import TO_16_BIT

EMBEDDED = ROOT / "models" / "sotu-neox-32x2"


def models_file(tmp_path: Path, **paths: Path) -> Path:
    entries = [{"name": name, "path": str(path)} for name, path in paths.items()]
    family = {"tokenizer": str(ROOT / "models" / "tokenizer"), "models": entries}
    file = tmp_path / "models.yaml"
    file.write_text(json.dumps({"families": {"f": family}}))
    return file


def sweep(study: Path, models: Path) -> int:
    database = str(study.parent / "t.db")
    return main([str(study), "--db", database, "--executor", "local", "--models", str(models)])


def listed_as_failed(folder: Path, capfd) -> list[dict]:
    capfd.readouterr()
    assert cli.main(["status", "--failed", "--format", "json", "--db", str(folder / "t.db")]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.fixture
def lacking(tmp_path: Path) -> Path:
    """The embedded model without its last layer."""
    folder = tmp_path / "bad"
    shutil.copytree(EMBEDDED, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if ".layers.1." not in key}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The name of each model whose weights were read."""
    names: list[str] = []
    read = loading._read

    def counted(checkpoint, dtype, device):
        names.append(checkpoint.name)
        return read(checkpoint, dtype, device)

    monkeypatch.setattr(loading, "_read", counted)
    return names


def test_weights_that_lack_are_no_random_ones(study, tmp_path, lacking, reads, capfd) -> None:
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "f"))
    models = models_file(tmp_path, bad=lacking, good=EMBEDDED)
    assert sweep(study, models) == 2
    printed = "".join(capfd.readouterr())
    line = f"error: model bad: {lacking / 'model.safetensors'} lacks 12 keys: gpt_neox.layers.1."
    assert printed.count(line) == printed.count("model bad") == 1 and "REPORT" not in printed
    assert sorted(reads) == ["bad", "good"]  # once, for all three settings
    store = Store.open(f"sqlite:///{tmp_path}/t.db")
    assert set(store.results()["model"]) == {"good"} and len(store.failed_experiments()) == 3
    # Asked again it is tried again, once: files and networks are mended between sweeps.
    assert sweep(study, models) == 2
    assert reads.count("bad") == 2 and reads.count("good") == 1
    assert len(listed_as_failed(tmp_path, capfd)) == 3
    shutil.copy(EMBEDDED / "model.safetensors", lacking)
    assert sweep(study, models) == 0
    assert listed_as_failed(tmp_path, capfd) == []  # though under the ids of other weights


def test_a_folder_that_came_is_no_failure_any_more(study, tmp_path, capfd) -> None:
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "f"))
    models = models_file(tmp_path, late=tmp_path / "late", good=EMBEDDED)
    assert sweep(study, models) == 2
    assert {row["model"] for row in listed_as_failed(tmp_path, capfd)} == {"late"}
    shutil.copytree(EMBEDDED, tmp_path / "late")
    assert sweep(study, models) == 0
    assert listed_as_failed(tmp_path, capfd) == []


def test_a_model_that_cannot_be_quantized_is_read_once(
    study, tmp_path, reads, monkeypatch, capfd
) -> None:
    def refuse(self, *args, **kwargs):
        raise ValueError("no list of None decoder blocks")

    monkeypatch.setattr(ResidentModel, "__init__", refuse)
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[m]"))
    assert sweep(study, models_file(tmp_path, m=EMBEDDED)) == 2
    assert "".join(capfd.readouterr()).count("error: model m: no list of None") == 1
    assert reads == ["m"]


def test_what_looks_ahead_is_not_scored(study, tmp_path, capfd) -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=2048, intermediate_size=64, **size)
    BertLMHeadModel(config).half().save_pretrained(tmp_path / "bert")
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[bert]"))
    assert sweep(study, models_file(tmp_path, bert=tmp_path / "bert")) == 2
    printed = "".join(capfd.readouterr())
    assert printed.count("error: model bert: BertLMHeadModel looks ahead") == 1
    assert Store.open(f"sqlite:///{tmp_path}/t.db").results().empty


def test_a_model_that_computes_nan_is_not_scored(study, tmp_path, capfd) -> None:
    """Reformer masks by constants of -1e9, which are -inf where they are made in float16."""
    from transformers import ReformerConfig, ReformerModelWithLMHead

    torch.manual_seed(0)
    chunks = {"local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "num_buckets": 4}
    size = {"hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16}
    config = ReformerConfig(
        vocab_size=2048, feed_forward_size=64, attn_layers=["local", "lsh"], num_hashes=1,
        max_position_embeddings=256, axial_pos_embds=False, is_decoder=True, **size, **chunks,
    )  # fmt: skip
    ReformerModelWithLMHead(config).save_pretrained(tmp_path / "reformer")
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[m]").replace(*TO_16_BIT))
    models = models_file(tmp_path, m=tmp_path / "reformer")
    assert sweep(study, models) == 2
    printed = "".join(capfd.readouterr())
    assert printed.count("error: model m: ReformerModelWithLMHead computes NaN") == 1
    assert "mask_value_float32 is not finite, as beyond float16; set dtype: bfloat16" in printed
    assert Store.open(f"sqlite:///{tmp_path}/t.db").results().empty
    models.write_text(models.read_text().replace('"name"', '"dtype": "bfloat16", "name"'))
    assert sweep(study, models) == 0
    losses = Store.open(f"sqlite:///{tmp_path}/t.db").results()
    assert losses.query("metric == 'cross_entropy'")["value"].between(7, 9).all()


def test_no_score_at_16_bit_is_a_failure_and_in_few_bits_a_result(
    study, tmp_path, monkeypatch, capfd
) -> None:
    from evaluation.engine.scoring import Scorer

    score = Scorer.score

    def overflowing(self, *args, **options):
        found = score(self, *args, **options)
        found.logprob[-1] = float("nan")
        return found

    monkeypatch.setattr(Scorer, "score", overflowing)
    assert main([str(study), "--db", str(tmp_path / "t.db"), "--executor", "local"]) == 2
    store = Store.open(f"sqlite:///{tmp_path}/t.db")
    assert set(store.results()["bits"]) == {4, 3}
    [error] = store.failed_experiments().values()
    assert "have no finite score at 16 bit" in error and "dtype: bfloat16" in error
    capfd.readouterr()
    assert cli.main(["status", "--db", str(tmp_path / "t.db")]) == 0
    assert "2 experiments diverged" in capfd.readouterr().out


@pytest.mark.parametrize("file", ["adapter_config.json", "quantize_config.json"])
def test_what_the_folder_tells_is_said_before_any_work(
    study, tmp_path, reads, capfd, file: str
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "m")
    (tmp_path / "m" / file).write_text("{}")
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[m]"))
    assert sweep(study, models_file(tmp_path, m=tmp_path / "m")) == 2
    printed = capfd.readouterr().err
    assert printed.count("error: model m: ") == 1 and file in printed and not reads
    assert not list(tmp_path.glob("t.db*"))  # nothing was tried


def test_a_folder_that_is_not_there_is_said_before_any_work(study, tmp_path, reads, capfd) -> None:
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "f"))
    gone = tmp_path / "gone"
    models = models_file(tmp_path, gone=gone)
    for options in ([], ["--dry-run"]):
        command = [str(study), "--db", str(tmp_path / "t.db"), "--models", str(models), *options]
        assert main(command) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert line == f"error: model gone: {gone} is not a directory; correct its `path`"
    assert not reads and not list(tmp_path.glob("t.db*"))


def test_a_window_longer_than_a_model_reads_is_said_before_any_work(
    study, tmp_path, reads, capfd
) -> None:
    written = study.read_text()
    study.write_text(written + "context: 257\n")
    assert main([str(study), "--db", str(tmp_path / "t.db"), "--executor", "local"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "257 exceeds the 256 tokens that model sotu-neox-32x2 can read" in line
    assert not reads and not list(tmp_path.glob("t.db*"))
    study.write_text(written + "context: 256\n")
    assert main([str(study), "--db", str(tmp_path / "t.db"), "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (UnusableModel("x/m@main: the hub has no such repository"), "the hub has no such"),
        (HubUnreachable("x/m@main: the hub cannot be reached"), "cannot be reached"),
        (Repository("a" * 40, frozenset({"config.json", "pytorch_model.bin"})), "`weights: bin`"),
        (Repository("a" * 40, frozenset({"adapter_config.json"})), "an adapter"),
    ],
)
def test_a_hub_model_that_cannot_be_had_is_said_before_any_work(
    study, tmp_path, reads, capfd, monkeypatch, found, reason: str
) -> None:
    def find(repo: str, revision: str | None) -> Repository:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("orchestrator.study.identity.find_repository", find)
    file = tmp_path / "models.yaml"
    file.write_text(f"families: {{f: {{models: [{{name: m, hub: x/m, revision: {'a' * 40}}}]}}}}")
    study.write_text(study.read_text().replace("[sotu-neox-32x2]", "[m]"))
    assert sweep(study, file) == 2
    printed = capfd.readouterr().err
    assert printed.count("error: model m: ") == 1 and reason in printed and not reads
