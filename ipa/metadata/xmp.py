"""XMP: marks that say a picture was generated, and our request where a file has no other place.

The names are those of IPTC's Photo Metadata Standard 2025.1 and its Digital Source Types.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ipa.errors import RequestError

NAMESPACES: Mapping[str, str] = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "ipa": "urn:ipa-mlx:1",
}
REQUEST, PROMPT = "ipa:request", "Iptc4xmpExt:AIPromptInformation"
SOURCE_TYPE = "Iptc4xmpExt:DigitalSourceType"

_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{_SOURCES}trainedAlgorithmicMedia"
EDITED = f"{_SOURCES}compositeWithTrainedAlgorithmicMedia"

_MOST = 16 << 20
_HEAD = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_TAIL = '<?xpacket end="w"?>'
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The marks of a generated picture.

    Attributes:
        program: Its name and version.
        version: The version alone.
        model: What the model is called.
        is_edited: Whether it began as another picture.
        prompt: The text that was asked for; None does not say.
    """

    program: str
    version: str
    model: str
    is_edited: bool = False
    prompt: str | None = None

    def properties(self) -> dict[str, str]:
        """The properties by their names."""
        told = {
            "xmp:CreatorTool": self.program,
            SOURCE_TYPE: EDITED if self.is_edited else GENERATED,
            "Iptc4xmpExt:AISystemUsed": f"ipa-mlx, {self.model}" if self.model else "ipa-mlx",
            "Iptc4xmpExt:AISystemVersionUsed": self.version,
        }
        return told | ({PROMPT: self.prompt} if self.prompt else {})


def packet(properties: Mapping[str, str]) -> str:
    """An XMP packet; what XML cannot hold is left out of the values."""
    spaces = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    entries = "".join(
        f"  <{name}>{escape(_UNWRITABLE.sub('', value))}</{name}>\n"
        for name, value in properties.items()
    )
    return (
        f'{_HEAD}\n<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF{spaces}>\n'
        f' <rdf:Description rdf:about="">\n{entries} </rdf:Description>\n'
        f"</rdf:RDF></x:xmpmeta>\n{_TAIL}"
    )


def read_packet(text: str) -> dict[str, str]:
    """The simple properties of an XMP packet, of namespaces that are known here.

    Raises:
        RequestError: It is no XML, too large, or declares entities.
    """
    body = re.sub(r"<\?xpacket[^>]{0,200}\?>", "", text).strip().strip("\ufeff\0")
    if len(text) > _MOST or "<!DOCTYPE" in body or "<!ENTITY" in body:
        raise RequestError("the XMP of a picture is not read", found="a document type, or too long")
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError) as error:
        raise RequestError("the XMP of a picture is damaged", found=str(error)[:120]) from error
    found: dict[str, str] = {}
    for about in root.iter(_tag("rdf:Description")):
        pairs = [*about.attrib.items(), *((one.tag, _words(one)) for one in about)]
        for tag, value in pairs:
            name = _name(tag)
            if name and value:
                found.setdefault(name, value)
    return found


def _words(element: ElementTree.Element) -> str:
    """An element's own text, or the first of its list of languages."""
    return next((text for text in map(str.strip, element.itertext()) if text), "")


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


def _name(tag: str) -> str | None:
    uri, _, local = tag.removeprefix("{").partition("}")
    prefix = next((key for key, value in NAMESPACES.items() if value == uri), None)
    return f"{prefix}:{local}" if prefix else None
