"""Face recognition for FaceID adapters: who finds faces and gives their embeddings.

from ipa import face_embedder
pipe.load_ip_adapter("faceid-sd15", face_embedder=face_embedder.insightface())
"""

from ipa.prepare.image_prompts.face_embedder import insightface

__all__ = ["insightface"]


def __dir__() -> list[str]:
    """What is on offer."""
    return list(__all__)
