"""What the dictionary forms of all views share.

All randomness is drawn first, then applied purely. An array form has ``draw``, which fills a frozen class of
parameters, and ``apply``, which needs nothing else. Its dictionary form draws from (seed, epoch, index) alone.
"""

from collections.abc import Mapping
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import MapTransform

from medssl_monai.transforms.samples import item_generator, single_key, slice_array


class DictionaryViews(MapTransform, RandomizableTrait):
    """Base of the dictionary forms.

    Args:
        keys: the image's key.
        seed: of the run; the draws depend on (seed, epoch, index) alone.
        keep_image: whether the image stays in the item.
        transform: the array form, with ``draw``, ``apply`` and ``intensities``.

    Raises:
        ValueError: several keys.
    """

    def __init__(self, keys: KeysCollection, seed: int, keep_image: bool, transform: Any) -> None:
        super().__init__(keys)
        self.key, self.seed, self.keep_image, self.transform = single_key(self.keys), seed, keep_image, transform

    def draw(self, data: Mapping[Any, Any]) -> Any:
        """The parameters of an item.

        Raises:
            ValueError: an item without ``index``, or an image that is not (1, H, W).
            NotHounsfieldError: a window in HU on an item that has a ``modality`` other than CT.
        """
        self.transform.intensities.require_hounsfield(data)
        return self.draw_for(data, slice_array(data[self.key]).shape)

    def draw_for(self, data: Mapping[Any, Any], shape: tuple[int, ...]) -> Any:
        """The parameters of an item without its image, which has the shape (H, W).

        Raises:
            ValueError: an item without ``index``.
        """
        return self.transform.draw(item_generator(data, self.seed), *shape)

    def entries(self, made: Any) -> dict[Any, Any]:
        """What an item gets of the result of the array form."""
        return {"views": made}

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Item with an image (1, H, W) in HU, ``index`` and ``epoch`` -> item with views."""
        parameters = self.draw(data)
        level, width = data.get("window_level"), data.get("window_width")
        kept = {name: value for name, value in data.items() if self.keep_image or name != self.key}
        return kept | self.entries(self.transform.apply(data[self.key], parameters, level, width))
