"""What calibration recorded of each matrix's input, by kind of layer and block."""

import pandas as pd

from analysis.claims.fptq.recipes import PLANTED
from analysis.claims.paper import Study

KINDS = {
    "QKV": ("query_key_value", "q_proj", "k_proj", "v_proj", "c_attn", "qkv_proj"),
    "Dense": ("attention.dense", "attn.dense", "attn.out_proj", "o_proj", "attn.c_proj"),
    "FC1": ("dense_h_to_4h", "fc1", "up_proj", "gate_proj", "c_fc", "fc_in"),
    "FC2": ("dense_4h_to_h", "fc2", "down_proj", "mlp.c_proj", "fc_out"),
}
"""The paper's names of layers -> how the names of their matrices end (the attention output of OPT,
`self_attn.out_proj`, and of Llama, `self_attn.o_proj`, among them)."""


def kind_of(site: str) -> str | None:
    """The paper's name of a matrix's layer; None for a head or an unknown one."""
    ends = [(kind, end) for kind, names in KINDS.items() for end in names]
    return next((kind for kind, end in ends if site.endswith(end)), None)


def ranges(study: Study) -> pd.DataFrame:
    """One row an input and block of an experiment: model, folding, kind, block, range (the largest
    magnitude in calibration), range_read (that after folding). Matrices that read one input (q, k
    and v; gate and up) are one. Empty where nothing was recorded.
    """
    columns = ["model", "folding", "kind", "block", "range", "range_read"]
    sites = study.tables.get("sites", pd.DataFrame(columns=["site", "quantity"]))
    sites = sites[sites["quantity"].isin(["range", "range_read"])]
    if sites.empty:
        return pd.DataFrame(columns=columns)
    block = sites["site"].str.extract(r"\.(\d+)\.")[0].astype("Int64")
    sites = sites.assign(kind=sites["site"].map(kind_of), block=block).dropna(subset=["kind"])
    key = ["experiment_id", *columns[:4]]
    wide = sites.pivot_table(index=key, columns="quantity", values="value", aggfunc="max")
    wide = wide.reset_index()
    missing = {name: float("nan") for name in ("range", "range_read") if name not in wide}
    return wide.assign(**missing)[["experiment_id", *columns]]


def before_and_after(found: pd.DataFrame, folding: str = "logarithmic 1.0") -> pd.DataFrame:
    """Of `ranges`, a row a model, kind and block: the widest of the experiments with a folding."""
    folded = found[found["folding"] == folding]
    return folded.groupby(["model", "kind", "block"], sort=False, as_index=False)[
        ["range", "range_read"]
    ].max()


def as_they_are(study: Study) -> pd.DataFrame:
    """The ranges of models without planted outliers."""
    results = study.results
    planted = results["family"].astype(str).str.contains(PLANTED, regex=False)
    found = ranges(study)
    return found[~found["model"].isin(results.loc[planted, "model"])]
