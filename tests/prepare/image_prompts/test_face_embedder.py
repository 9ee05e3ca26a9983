"""The adapter for insightface, over a stand-in of its analysis: its networks cannot be had here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import RequestError
from ipa.prepare.image_prompts import face_embedder
from ipa.prepare.image_prompts.face_embedder import InsightFaceEmbedder


@dataclass
class Analysis:
    """Finds a small and a large face when it looks at no more than 512 pixels."""

    asked: list[int] = field(default_factory=list)
    seen: Any = None

    def prepare(self, *, ctx_id: int, det_size: tuple[int, int]) -> None:
        self.asked.append(det_size[0])

    def get(self, picture: np.ndarray) -> list[Any]:
        self.seen = picture
        if self.asked[-1] > 512:
            return []
        return [
            SimpleNamespace(bbox=[0, 0, 4, 4, 0.99], kps="small", embedding=np.full(512, 2.0)),
            SimpleNamespace(bbox=[0, 0, 9, 8, 0.7], kps="large", embedding=np.full(512, 3.0)),
        ]


def align(picture: np.ndarray, landmark: str, image_size: int) -> np.ndarray:
    crop = np.zeros((image_size, image_size, 3), np.uint8)
    crop[..., 0] = {"small": 10, "large": 200}[landmark]  # blue, for insightface
    return crop


def test_faces_by_size_in_colours_of_both_sides() -> None:
    analysis = Analysis()
    faces = InsightFaceEmbedder(analysis, align)(Image.new("RGB", (20, 10), (1, 2, 3)))
    assert analysis.asked == [640, 576, 512]
    assert analysis.seen.shape == (10, 20, 3)
    assert analysis.seen[0, 0].tolist() == [3, 2, 1]  # blue first
    assert [face.embedding[0] for face in faces] == [3.0, 2.0]
    crop = np.asarray(faces[0].crop)
    assert crop.shape == (224, 224, 3)
    assert crop[0, 0].tolist() == [0, 0, 200]  # blue last


def test_no_face() -> None:
    analysis = Analysis()
    found = InsightFaceEmbedder(analysis, align, detection_sizes=(640, 576))
    assert found(Image.new("RGB", (8, 8))) == []


def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(RequestError, match="non-commercial"):
        face_embedder.insightface()
