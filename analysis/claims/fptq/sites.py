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


RANGES = (
    *("range", "range_read", "median_channel", "median_channel_read"),
    *("median_token", "token_99"),
)
"""What calibration recorded of an input: the largest magnitude of all and of the median channel, as
they are and (`_read`) after folding; what half and 99 % of the tokens stay within."""
_PLACE = ["model", "folding", "kind", "block"]


def ranges(study: Study) -> pd.DataFrame:
    """One row an input and block of an experiment: experiment_id, model, folding, kind, block, and
    those of RANGES, NaN where they were not recorded. Matrices that read one input (q, k and v;
    gate and up) are one. Empty where nothing was recorded.
    """
    columns = ["experiment_id", *_PLACE, *RANGES]
    sites = study.tables.get("sites", pd.DataFrame(columns=["site", "quantity"]))
    sites = sites[sites["quantity"].isin(RANGES)]
    if sites.empty:
        return pd.DataFrame(columns=columns)
    block = sites["site"].str.extract(r"\.(\d+)\.")[0].astype("Int64")
    sites = sites.assign(kind=sites["site"].map(kind_of), block=block).dropna(subset=["kind"])
    wide = sites.pivot_table(
        index=["experiment_id", *_PLACE], columns="quantity", values="value", aggfunc="max"
    )
    return wide.reset_index().reindex(columns=columns)


def before_and_after(found: pd.DataFrame, folding: str = "logarithmic 1.0") -> pd.DataFrame:
    """Of `ranges`, a row a model, kind and block: the widest of the experiments with a folding."""
    return by_block(found[found["folding"] == folding])


def by_block(found: pd.DataFrame) -> pd.DataFrame:
    """Of `ranges`, a row a model, kind and block: the widest of all experiments."""
    place = ["model", "kind", "block"]
    return found.groupby(place, sort=False, as_index=False)[list(RANGES)].max()


def as_they_are(study: Study) -> pd.DataFrame:
    """The ranges of models without planted outliers."""
    results = study.results
    planted = results["family"].astype(str).str.contains(PLANTED, regex=False)
    found = ranges(study)
    return found[~found["model"].isin(results.loc[planted, "model"])]
