"""What can be measured of an encoder without labels, by name: what each says, and which direction is better.

How each is computed is in `embeddings`; of which slices and views, in `medssl_monai.classify.label_free`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medssl_monai.errors import ConfigError, suggestion

NONE = "none"
"""As ``keep_best_by``: the last encoder is exported."""


@dataclass(frozen=True)
class Measure:
    """A figure of an encoder's features.

    Attributes:
        meaning: in a few words, for tables and figures.
        higher_is_better: whether a higher value is better, by the paper or by intent.
    """

    meaning: str
    higher_is_better: bool

    def order(self, value: float) -> float:
        """The value, such that more is better."""
        return value if self.higher_is_better else -value


MEASURES: Mapping[str, Measure] = {
    "effective_rank": Measure("effective rank (RankMe)", True),
    "lidar": Measure("LiDAR", True),
    "alignment": Measure("alignment of two views", False),
    "uniformity": Measure("uniformity", False),
    "knn_series": Measure("nearest slice in the same series", True),
    "knn_place": Measure("place in the body, by neighbours (R²)", True),
    "embedding_collapse": Measure("collapse (MONAI)", False),
}


def check_measure(name: Any, key: str, others: Iterable[str] = ()) -> str:
    """The name of a measure.

    Args:
        name: what was given.
        key: the setting or option that it was given for, for the message.
        others: values that the key may have besides.

    Raises:
        ConfigError: there is no such measure.
    """
    known = [*others, *MEASURES]
    if name not in known:
        raise ConfigError(f"{key}: must be one of {', '.join(known)}, found {name!r}{suggestion(name, known)}")
    return str(name)


def best_of(rows: Sequence[Mapping[str, Any]], measure: str) -> Mapping[str, Any] | None:
    """The row with the best value of a measure, the first of several; None where no row has a value."""
    valued = [row for row in rows if row.get(measure) is not None]
    return max(valued, key=lambda row: MEASURES[measure].order(row[measure]), default=None)
