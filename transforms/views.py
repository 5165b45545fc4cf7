"""What the dictionary forms of all views share.

All randomness is drawn first, then applied purely. An array form has ``draw``, which fills a frozen class of
parameters, and ``apply``, which needs nothing else. Its dictionary form draws from (seed, epoch, index) alone.
"""

from collections.abc import Mapping
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import MapTransform

from medssl_monai.transforms.samples import item_generator, single_key

PARTNER_SLICE = "partner_slice"


class DictionaryViews(MapTransform, RandomizableTrait):
    """Base of the dictionary forms.

    Args:
        keys: the image's key.
        seed: of the run; the draws depend on (seed, epoch, index) alone.
        keep_image: whether the image stays in the item.
        transform: the array form, with ``draw``, ``apply`` and ``intensities``.

    Raises:
        ValueError: several keys.

    Attributes:
        takes_partners: whether every second view may show another slice, the item's ``partner_slice``.
    """

    takes_partners = False

    def __init__(self, keys: KeysCollection, seed: int, keep_image: bool, transform: Any) -> None:
        super().__init__(keys)
        self.key, self.seed, self.keep_image, self.transform = single_key(self.keys), seed, keep_image, transform

    @property
    def channel_spacing_mm(self) -> float:
        """Distance of the slices that are a view's channels, mm; 0 is the slice alone. `SliceDataset` reads it."""
        spacing: float = self.transform.intensities.channel_spacing_mm
        return spacing

    def slices(self, data: Mapping[Any, Any]) -> list[Mapping[Any, Any]]:
        """What the views of an item show: the item itself, and its ``partner_slice``, where there is one.

        Raises:
            ValueError: a partner, and views that show one slice alone.
        """
        if PARTNER_SLICE not in data:
            return [data]
        if not self.takes_partners:
            raise ValueError(
                f"partner_slice: {type(self).__name__} shows one slice; make the data set without partners"
            )
        return [data, data[PARTNER_SLICE]]

    def draw(self, data: Mapping[Any, Any]) -> Any:
        """The parameters of an item.

        Raises:
            ValueError: an item without ``index``, an image that is not (1, H, W), with a `channel_spacing_mm` not
                (3, H, W), or a partner that is not taken.
            NotHounsfieldError: a window in HU on an item that has a ``modality`` other than CT.
        """
        slices = self.slices(data)
        for one in slices:
            self.transform.intensities.require_hounsfield(one)
        return self.draw_for(data, *(self.transform.intensities.pixels(one[self.key]).shape[-2:] for one in slices))

    def draw_for(self, data: Mapping[Any, Any], *shapes: tuple[int, ...]) -> Any:
        """The parameters of an item without its image, which has the shape (H, W), as has that of its partner.

        Raises:
            ValueError: an item without ``index``.
        """
        return self.transform.draw(item_generator(data, self.seed), *shapes[0], *shapes[1:])

    def entries(self, made: Any) -> dict[Any, Any]:
        """What an item gets of the result of the array form."""
        return {"views": made}

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Item with an image (1, H, W) in HU, ``index`` and ``epoch`` -> item with views."""
        parameters = self.draw(data)
        own, *partner = ((one[self.key], one.get("window_level"), one.get("window_width")) for one in self.slices(data))
        dropped = {PARTNER_SLICE} if self.keep_image else {PARTNER_SLICE, self.key}
        kept = {name: value for name, value in data.items() if name not in dropped}
        return kept | self.entries(self.transform.apply(own[0], parameters, *own[1:], *partner))
