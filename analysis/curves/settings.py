"""The precision settings of frames of results: of rows, and those that are drawn solid."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from quantizers.data_types import default_exponent_bits
from quantizers.granularity import Granularity
from quantizers.recipes import recipe_of
from quantizers.setting import SETTING_COLUMNS, Setting


def setting_of(row: pd.Series) -> Setting:
    """The precision setting of one row of results."""
    return Setting.from_row({column: row[column] for column in SETTING_COLUMNS})


def settings_of(rows: pd.DataFrame) -> list[Setting]:
    """The precision setting of every row of results; each distinct one is read once."""
    distinct, which = _distinct(rows)
    return [distinct[i] for i in which]


def with_recipes(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of results with the column `recipe` behind their factors: the name of the recipe that
    they are (see `kbit recipes`), missing where they are none."""
    distinct, which = _distinct(rows)
    names = np.array([recipe_of(setting) for setting in distinct], dtype=object)
    place = max(rows.columns.get_loc(name) for name in SETTING_COLUMNS) + 1
    made = rows.copy()
    made.insert(place, "recipe", names[which])
    return made


def is_baseline(rows: pd.DataFrame) -> pd.Series:
    """Which rows of results are of the 16-bit model as it is: bool, with the index of `rows`."""
    distinct, which = _distinct(rows)
    known = np.array([setting.is_baseline for setting in distinct], dtype=bool)
    return pd.Series(known[which], rows.index)


def numbered(rows: pd.DataFrame, columns: Iterable[str]) -> npt.NDArray[np.intp]:
    """The same number for rows that are equal in all `columns`, missing cells too, by appearance:
    what a groupby's ngroup gives, in a tenth of its time where most columns hold one value."""
    number = np.zeros(len(rows), dtype=np.intp)
    for column in columns:
        codes, values = pd.factorize(rows[column].values)  # -1: missing
        if len(codes) and (codes != codes[0]).any():
            number = pd.factorize(number * (len(values) + 1) + codes + 1)[0]
    return number


def _distinct(rows: pd.DataFrame) -> tuple[list[Setting], npt.NDArray[np.intp]]:
    """The distinct settings of rows of results, and which of them each row has."""
    if rows.empty:
        return [], np.empty(0, dtype=np.intp)
    which = numbered(rows, SETTING_COLUMNS)
    _, first = np.unique(which, return_index=True)
    told = rows[list(SETTING_COLUMNS)].iloc[first].to_dict("records")
    return [Setting.from_row(row) for row in told], which


_CHOSEN = ("bits", "data_type", "exponent_bits", "block_size", "by_row")  # by a plain setting


def main_settings(settings: Sequence[Setting]) -> set[Setting]:
    """The settings drawn solid: one a precision, of the most common data type and block size.

    `settings` may repeat (one entry a curve): counts decide, and among equals, as in a full grid,
    what the paper recommends (section 7: float, blocks of 64). Only plain round-to-nearest over the
    linear layers qualifies where there is any.
    """
    quantized = [s for s in settings if not s.keeps_weights]
    plain = [s for s in quantized if is_plain(s)] or quantized
    counts = Counter((s.data_type, s.granularity) for s in plain)
    common = max(counts, default=None, key=lambda pair: (counts[pair], *_recommended(*pair)))
    main = {s for s in settings if s.is_baseline}
    for bits in {s.bits for s in plain}:
        usual = [s for s in plain if s.bits == bits and (s.data_type, s.granularity) == common]
        if usual:
            times = Counter(usual)
            main.add(max(times, key=lambda s: (times[s], _usual_exponent(s))))
    return main


def _recommended(data_type: str | None, granularity: Granularity) -> tuple[bool, bool]:
    return data_type == "float", granularity == Granularity(64)


def is_plain(setting: Setting) -> bool:
    """Whether only precision, data type and blocks are chosen, and nothing else is done."""
    chosen = {name: getattr(setting, name) for name in _CHOSEN}
    return setting == Setting("none" if setting.keeps_weights else "rtn", **chosen)


def _usual_exponent(setting: Setting) -> bool:
    """Whether a setting has the default exponent bits (appendix C.4), or none to choose."""
    bits = setting.exponent_bits
    return bits is None or bits == default_exponent_bits(int(setting.bits))


def with_settings(results: pd.DataFrame, settings: Collection[Setting]) -> pd.DataFrame:
    """The rows of `results` whose experiment has one of `settings`."""
    experiments = results.drop_duplicates("experiment_id")
    keep = [setting in settings for setting in settings_of(experiments)]
    return results[results["experiment_id"].isin(experiments.loc[keep, "experiment_id"])]
