"""Faces by the package insightface (deepinsight): found, aligned and embedded, for FaceID adapters.

The package is no dependency: `pip install 'ipa-mlx[face]'`. Its code is under the MIT licence, but
its pretrained models, which it downloads by itself, are **for non-commercial research only**: read
their licence. Any other callable that gives `ipa.Face` serves as well.

Alignment: five landmarks (eyes, nose, corners of the mouth) are moved by a similarity transform to
ArcFace's template, 112 pixels wide for the embedding and, for what FaceID-Plus sees, `crop_size`
(insightface.utils.face_align). Its networks take blue, green, red; pictures here are red, green,
blue, and are turned around on the way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ipa.errors import RequestError
from ipa.prepare.images.pictures import to_rgb
from ipa.request.faces import Face

DETECTION_SIZES = tuple(range(640, 256, -64))
"""Sides at which faces are looked for, until one is found: one that fills the picture is seen only
when it is small (ComfyUI_IPAdapter_plus tries the same)."""

CROP_SIZE = 224


@dataclass(frozen=True, slots=True)
class InsightFaceEmbedder:
    """A `FaceEmbedder`: the largest face first, where tencent's and ComfyUI's take the surest.

    Attributes:
        analysis: An `insightface.app.FaceAnalysis`.
        align: `insightface.utils.face_align.norm_crop`.
        crop_size: Side of the crop: 224 as the adapters for SD1.5 and SDXL were trained.
        detection_sizes: Sides at which faces are looked for.
        ctx_id: What insightface calls its device: 0, or -1 for the CPU.
    """

    analysis: Any
    align: Callable[..., Any]
    crop_size: int = CROP_SIZE
    detection_sizes: Sequence[int] = DETECTION_SIZES
    ctx_id: int = 0

    def __call__(self, picture: Image.Image) -> list[Face]:
        """Detect all faces of an RGB picture."""
        blue_first = np.ascontiguousarray(np.asarray(to_rgb(picture))[:, :, ::-1])
        for side in self.detection_sizes:
            self.analysis.prepare(ctx_id=self.ctx_id, det_size=(side, side))
            found = self.analysis.get(blue_first)
            if found:
                ordered = sorted(found, key=_area, reverse=True)
                return [self._face(face, blue_first) for face in ordered]
        return []

    def _face(self, found: Any, blue_first: np.ndarray[Any, Any]) -> Face:
        crop = self.align(blue_first, landmark=found.kps, image_size=self.crop_size)
        return Face(np.asarray(found.embedding), np.ascontiguousarray(crop[:, :, ::-1]))


def insightface(
    name: str = "buffalo_l", *, root: str = "~/.insightface", ctx_id: int = 0
) -> InsightFaceEmbedder:
    """An embedder with one of insightface's model packs, downloaded to `root` if missing.

    Args:
        name: The pack; the adapters were trained with buffalo_l.
        root: Its folder.
        ctx_id: What insightface calls its device: 0, or -1 for the CPU.

    Raises:
        RequestError: The package is not installed.
    """
    try:
        from insightface.app import FaceAnalysis
        from insightface.utils.face_align import norm_crop
    except ImportError as error:
        raise RequestError(
            "the package insightface is not installed",
            found=str(error),
            remedy="pip install 'ipa-mlx[face]'; its models are for non-commercial research only",
        ) from error
    analysis = FaceAnalysis(name=name, root=root, allowed_modules=["detection", "recognition"])
    return InsightFaceEmbedder(analysis, norm_crop, ctx_id=ctx_id)


def _area(face: Any) -> float:
    left, top, right, bottom = face.bbox[:4]
    return float((right - left) * (bottom - top))
