"""Two views of a slice, as MoCo v2 and BYOL compare them.

Shapes: slice (1, H, W) in HU; views two of (channels, h, w) float32.
"""

from collections.abc import Sequence

from monai.config.type_definitions import KeysCollection

from medssl_monai.transforms.multi_crop import MultiCropViews, MultiCropViewsd
from medssl_monai.transforms.recipe import ViewRecipe
from medssl_monai.transforms.spatial import Interpolation
from medssl_monai.windows import WindowSpec


class TwoViews(MultiCropViews):
    """Two views of one recipe: MoCo v2's (Chen et al. 2020, arXiv 2003.04297) with turns, flips and noise for CT.

    Args:
        image_size: side, or (h, w), of the views in pixels.
        scale: share of the slice's area that a view covers.
        recipe: what else happens to a view; by default turns, both flips and a jitter that is never left out.

    Raises:
        ValueError: a size or share out of range.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        *,
        scale: Sequence[float] = (0.2, 1.0),
        recipe: ViewRecipe | None = None,
    ) -> None:
        recipe = recipe or ViewRecipe(rotation=0.5, flip_vertical=0.5, jitter=1.0)
        super().__init__((2,), (image_size,), (scale,), recipe=recipe)


class TwoViewsd(MultiCropViewsd):
    """Dictionary form of `TwoViews`.

    Reads the image, ``index`` and ``epoch``; writes ``views``; drops the image unless ``keep_image``. The draws depend
    on (seed, epoch, index) alone. For the arguments see `TwoViews` and `ViewRecipe`.

    Raises:
        ValueError: at call, for an item without ``index`` or an image that is not (1, H, W).
        NotHounsfieldError: at call, for a window in HU on an item whose ``modality`` is not CT.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        seed: int,
        image_size: int | Sequence[int] = 224,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        rotation: float = 0.5,
        rotation_degrees: float = 180.0,
        flip_horizontal: float = 0.5,
        flip_vertical: float = 0.5,
        window: WindowSpec = "wide",
        window_fallback: str | Sequence[float] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        jitter: float = 1.0,
        window_jitter: Sequence[float] | None = (0.1, 0.4),
        photometric_jitter: Sequence[float] | None = None,
        grey: float = 0.0,
        blur: float = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        noise: float = 0.5,
        noise_variance: Sequence[float] = (1e-5, 1e-4),
        keep_image: bool = False,
    ) -> None:
        super().__init__(
            keys,
            seed=seed,
            counts=(2,),
            sizes=(image_size,),
            scales=(scale,),
            ratio=ratio,
            interpolation=interpolation,
            rotation=rotation,
            rotation_degrees=rotation_degrees,
            flip_horizontal=flip_horizontal,
            flip_vertical=flip_vertical,
            window=window,
            window_fallback=window_fallback,
            mean=mean,
            std=std,
            jitter=jitter,
            window_jitter=window_jitter,
            photometric_jitter=photometric_jitter,
            grey=grey,
            blur=blur,
            blur_sigma=blur_sigma,
            noise=noise,
            noise_variance=noise_variance,
            keep_image=keep_image,
        )
